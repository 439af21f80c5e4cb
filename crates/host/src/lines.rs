//! Puts the pieces that guests write to standard output together into lines (spec: proxy-wasm-host §11.2).

/// Buffers one of the two standard streams. Go writes a panic in dozens of pieces; each would be a log line.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer {
    pending: Vec<u8>,
}

impl LineBuffer {
    /// A line longer than this is cut into several.
    const LINE_BYTES_MAX: usize = 8 << 10;

    /// Adds bytes and calls `emit` for each line that they complete.
    pub(crate) fn write(&mut self, mut bytes: &[u8], emit: &mut dyn FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.pending.is_empty() {
                emit_nonempty(line, emit);
            } else {
                self.pending.extend_from_slice(line);
                self.flush(emit);
            }
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= Self::LINE_BYTES_MAX {
            self.flush(emit);
        }
    }

    /// Emits what has no line end yet.
    pub(crate) fn flush(&mut self, emit: &mut dyn FnMut(&[u8])) {
        if !self.pending.is_empty() {
            let line = std::mem::take(&mut self.pending);
            emit_nonempty(&line, emit);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

fn emit_nonempty(line: &[u8], emit: &mut dyn FnMut(&[u8])) {
    if !line.is_empty() {
        emit(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut buffer = LineBuffer::default();
        for write in writes {
            buffer.write(write, &mut |l| out.push(String::from_utf8_lossy(l).into_owned()));
        }
        buffer.flush(&mut |l| out.push(String::from_utf8_lossy(l).into_owned()));
        out
    }

    #[test]
    fn pieces_become_one_line() {
        assert_eq!(
            lines(&[b"panic: ", b"boom", b"\n", b"\n", b"goroutine 1"]),
            ["panic: boom", "goroutine 1"]
        );
    }

    #[test]
    fn a_line_without_end_is_cut() {
        assert_eq!(lines(&[&[b'x'; 8 << 10], b"y"]).len(), 2);
    }
}
