//! As much of the protobuf wire format as the ABI's few messages need.

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'m> {
    Varint(u64),
    Bytes(&'m [u8]),
    /// Fixed-width numbers, which none of the messages has.
    Fixed,
}

/// The fields of a message in order. `None` when the bytes are no message.
pub(crate) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut out = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut message)?),
            1 => skip(&mut message, 8)?,
            2 => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(len)?;
                message = rest;
                Field::Bytes(bytes)
            }
            5 => skip(&mut message, 4)?,
            _ => return None,
        };
        let number = key >> 3;
        if number == 0 {
            return None;
        }
        out.push((number, field));
    }
    Some(out)
}

fn skip<'m>(message: &mut &[u8], len: usize) -> Option<Field<'m>> {
    *message = message.get(len..)?;
    Some(Field::Fixed)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The last value of a bytes field; empty when it is not there, as protobuf has it.
pub(crate) fn bytes<'m>(fields: &[(u64, Field<'m>)], number: u64) -> &'m [u8] {
    fields
        .iter()
        .rev()
        .find_map(|(n, field)| match field {
            Field::Bytes(bytes) if *n == number => Some(*bytes),
            _ => None,
        })
        .unwrap_or_default()
}

/// The last value of a number field; 0 when it is not there.
pub(crate) fn number(fields: &[(u64, Field<'_>)], number: u64) -> u64 {
    fields
        .iter()
        .rev()
        .find_map(|(n, field)| match field {
            Field::Varint(value) if *n == number => Some(*value),
            _ => None,
        })
        .unwrap_or_default()
}

/// Appends a bytes field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a bool field, unless it is false: protobuf leaves defaults out.
pub(crate) fn put_bool(out: &mut Vec<u8>, number: u8, value: bool) {
    if value {
        out.extend_from_slice(&[number << 3, 1]);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_falls_apart_into_its_fields() {
        let message = b"\x0a\x03abc\x10\x96\x01\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x0a\x01z";
        let fields = fields(message).unwrap();
        assert_eq!(fields.len(), 5);
        assert_eq!(bytes(&fields, 1), b"z", "the last one counts");
        assert_eq!((number(&fields, 2), number(&fields, 9)), (150, 0));
        assert_eq!(bytes(&fields, 2), b"");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [&b"\x0a\x05ab"[..], b"\x0b", b"\x08", b"\xff", b"\x00\x00", b"\x19\0"] {
            assert_eq!(fields(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            put_bytes(&mut out, 3, &value);
            put_bool(&mut out, 1, true);
            let fields = fields(&out).unwrap();
            prop_assert_eq!(bytes(&fields, 3), &value[..]);
            prop_assert_eq!(number(&fields, 1), 1);
        }

        #[test]
        fn arbitrary_bytes_never_panic(value in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = fields(&value);
        }
    }
}
