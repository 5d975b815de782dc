//! Sizes and durations as people write them.

use std::fmt;
use std::time::Duration;

/// Words for "no limit".
const UNLIMITED: [&str; 3] = ["none", "off", "unlimited"];

/// A size: so many bytes, or a part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of a percent of the disk.
    Share(u32),
}

impl Size {
    /// In bytes, on a disk of so many.
    pub fn on(self, disk_bytes: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            // Divided first: a product could be too large, and the rest matters to nobody.
            Size::Share(hundredths) => disk_bytes / WHOLE * u64::from(hundredths),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Bytes(bytes) => write!(out, "{bytes}"),
            Size::Share(hundredths) => write!(out, "{}%", f64::from(*hundredths) / 100.0),
        }
    }
}

/// All of the disk, in the unit of [`Size::Share`].
const WHOLE: u64 = 10_000;

/// Parses `10GB` (decimal), `10GiB` (binary), `500M`, `1.5 GB`, a plain number of bytes, `20%` (of the disk), or `none`.
pub fn size(text: &str) -> Result<Option<Size>, String> {
    let error = || format!("\"{text}\" is not a size; write for example 10GB, 10GiB, 20% (of the disk) or none");
    let text = text.trim();
    if UNLIMITED.contains(&text) {
        return Ok(None);
    }
    let (number, unit) = split(text);
    if unit == "%" {
        let share = scale(number, WHOLE / 100).filter(|share| *share <= WHOLE);
        return share.and_then(|share| u32::try_from(share).ok()).map(Size::Share).map(Some).ok_or_else(error);
    }
    let unit = unit.to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) if !letter.is_empty() => (letter, 1024u64),
        _ => (unit, 1000),
    };
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == letter).ok_or_else(error)?;
    scale(number, base.pow(power as u32)).map(Size::Bytes).map(Some).ok_or_else(error)
}

/// Parses `30d`, `12h`, `15m`, `90s`, `2w`, or `none`.
pub fn duration(text: &str) -> Result<Option<Duration>, String> {
    let error = || format!("\"{text}\" is not a duration; write for example 30d, 12h or none");
    let text = text.trim();
    if UNLIMITED.contains(&text) {
        return Ok(None);
    }
    let (number, unit) = split(text);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        "w" => 7 * 24 * 60 * 60,
        _ => return Err(error()),
    };
    scale(number, seconds).map(|seconds| Some(Duration::from_secs(seconds))).ok_or_else(error)
}

/// Writes a duration so that [`duration`] reads it: in the largest unit that leaves no rest.
pub fn spell(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "m")];
    match units.iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit)) {
        Some((unit, letter)) => format!("{}{letter}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// The number and the unit of `text`.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// `number` times `unit`; none if it is no number or too large.
fn scale(number: &str, unit: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let product = number.parse::<f64>().ok()? * unit as f64;
    // Above 2^53 a fraction means nothing any more.
    (product.is_finite() && product < (1u64 << 53) as f64).then_some(product.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good = [
            ("10GB", 10_000_000_000),
            ("10GiB", 10 << 30),
            ("500M", 500_000_000),
            ("1.5 kB", 1500),
            ("7", 7),
            ("2k", 2000),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(Some(Size::Bytes(bytes))), "{text}");
        }
        for (text, hundredths, shown) in
            [("20%", 2000, "20%"), ("12.5 %", 1250, "12.5%"), ("0%", 0, "0%"), ("100%", 10_000, "100%")]
        {
            let share = size(text).unwrap().unwrap();
            assert_eq!((share, share.to_string().as_str()), (Size::Share(hundredths), shown));
            assert_eq!(share.on(2_000_000), 200 * u64::from(hundredths));
        }
        assert_eq!(Size::Bytes(7).on(1), 7);
        assert_eq!(size("none"), Ok(None));
        for bad in ["", "GB", "10XB", "-1GB", "99999999999PB", "1.2.3GB", "10 i", "ten", "101%", "-1%", "%"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        let good = [("30d", 2_592_000), ("12h", 43_200), ("15m", 900), ("90s", 90), ("2 w", 1_209_600), ("0.5h", 1800)];
        for (text, seconds) in good {
            assert_eq!(duration(text), Ok(Some(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["30d", "12h", "90s", "15m", "0s"] {
            assert_eq!(spell(duration(text).unwrap().unwrap()), text);
        }
        assert_eq!(duration("off"), Ok(None));
        for bad in ["", "30", "d", "3y", "-3d", "1e9d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
