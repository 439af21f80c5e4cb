//! Bodies that both sides know without sending them first: a piece that is lost, repeated or moved shows.

use std::sync::OnceLock;

use bytes::Bytes;

/// The longest body.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A body starts at one of that many places of the pattern.
pub const SEEDS: usize = 4096;

/// The body of a length that belongs to a seed. Longer than [`BODY_BYTES_MAX`] it is cut.
#[must_use]
pub fn body(seed: usize, length: usize) -> Bytes {
    static WHOLE: OnceLock<Bytes> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| {
        // The generator's period is longer than the pattern, so no two places of it look alike.
        let mut random = fastrand::Rng::with_seed(1);
        let bytes: Vec<u8> = (0..BODY_BYTES_MAX + SEEDS).map(|_| random.u8(b' '..=b'~')).collect();
        bytes.into()
    });
    let begin = seed % SEEDS;
    whole.slice(begin..begin + length.min(BODY_BYTES_MAX))
}

/// Says where a body differs from what it should be, if it does.
///
/// # Errors
/// The lengths and the first place that differs.
pub fn compare(is: &[u8], should: &[u8]) -> Result<(), String> {
    if is == should {
        return Ok(());
    }
    let same = is.iter().zip(should).take_while(|(a, b)| a == b).count();
    Err(format!("a body of {} bytes instead of {}, which differs at {same}", is.len(), should.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_moved_or_cut_differs() {
        let should = body(7, 1000);
        assert_eq!(compare(&body(7 + SEEDS, 1000), &should), Ok(()));
        assert_eq!(
            compare(&should[..600], &should).unwrap_err(),
            "a body of 600 bytes instead of 1000, which differs at 600"
        );
        assert!(compare(&body(8, 1000), &should).is_err());
        assert_eq!(body(0, usize::MAX).len(), BODY_BYTES_MAX);
    }
}
