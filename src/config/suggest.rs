//! "Did you mean": the known word nearest to a typo, and lists of the words there are.

/// The nearest of `known`, if it is near enough to be meant.
pub fn nearest<'a>(typo: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '_'], "");
    let typo = plain(typo);
    let distance = |word: &str| strsim::damerau_levenshtein(&typo, &plain(word));
    let (best, word) = known.iter().map(|word| (distance(word), *word)).min_by_key(|&(distance, _)| distance)?;
    // A third of the letters wrong, at least one, at most three: beyond that a suggestion is a guess.
    (best <= (typo.len() / 3).clamp(1, 3)).then_some(word)
}

/// The end of an error about an unknown word: the nearest known one, else all of them.
pub fn hint(typo: &str, known: &[&str]) -> String {
    match nearest(typo, known) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => format!("there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_not() {
        let known = ["cache_dir", "cache_failures", "own", "scope"];
        assert_eq!(nearest("scop", &known), Some("scope"));
        assert_eq!(nearest("cacheDri", &known), Some("cache_dir"));
        assert_eq!(nearest("cache-failure", &known), Some("cache_failures"));
        assert_eq!(nearest("colour", &known), None);
        assert!(hint("colour", &known).contains("own, scope"));
    }
}
