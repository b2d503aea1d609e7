//! Timer arithmetic of RFC 9568 section 6.1, in integer microseconds: integer centiseconds would
//! round the skew of fast intervals down to nothing.

use crate::time::Span;
use krater_model::Centiseconds;

/// An advertisement interval as a span.
pub const fn interval(value: Centiseconds) -> Span {
    Span::from_micros(value.value() as u64 * 10_000)
}

/// Skew_Time: `(256 - priority) / 256` of the Active's interval, rounded down to a microsecond.
pub fn skew(priority: u8, active_interval: Span) -> Span {
    Span::from_micros((256 - u64::from(priority)) * active_interval.micros() / 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        let cs = |value| interval(Centiseconds::new(value).unwrap());
        // (256 - 100) / 256 × 1 s = 609.375 ms
        assert_eq!(skew(100, cs(100)).micros(), 609_375);
        // The fastest interval keeps a skew that tells priorities apart.
        assert_eq!(skew(100, cs(1)).micros(), 6_093);
        assert_eq!(skew(90, cs(1)).micros(), 6_484);
        assert_eq!(skew(254, cs(1)).micros(), 78);
        assert_eq!(skew(1, cs(4095)).micros(), 40_790_039);
    }
}
