//! Shares as arguments.

/// A share from 0 to 1: `80%`, `80`, or `0.8`. A number up to 1 is a part of one, so `1` is all.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, percent) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), true),
        None => (text, false),
    };
    let value: f64 = number
        .parse()
        .map_err(|_| "a share looks like 80%, 80 or 0.8".to_owned())?;
    let share = match percent || value > 1.0 {
        true => value / 100.0,
        false => value,
    };
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err("a share lies between 0 and 100 %".into()),
    }
}

/// For people, rounded down: what is not all never reads `100.0 %`.
pub fn words(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_in_every_form() {
        for (text, wanted) in [
            ("80%", 0.8),
            ("80", 0.8),
            ("0.8", 0.8),
            ("1", 1.0),
            ("0", 0.0),
            ("1%", 0.01),
            ("100", 1.0),
        ] {
            let found = share(text).expect(text);
            assert!((found - wanted).abs() < 1e-9, "{text}: {found}");
        }
        for text in ["", "x", "-1", "101", "NaN", "101%"] {
            assert!(share(text).is_err(), "{text}");
        }
        assert_eq!(words(0.999_99), "99.9 %");
        assert_eq!(words(1.0), "100.0 %");
    }
}
