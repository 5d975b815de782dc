//! What differs between a recorded fact and the present one, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use wink_store::{Names, Observation};

/// What differs between two listings: the first name, and how many more there are.
#[derive(Debug, PartialEq, Eq)]
pub struct NameDifference {
    name: String,
    how: How,
    more: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Appeared,
    Gone,
    OtherKind,
}

impl NameDifference {
    /// What the record saw of the name, to be put behind its digest.
    pub fn then(&self) -> String {
        match self.how {
            How::Appeared => format!(", without {}", self.name),
            How::Gone => format!(", with {}", self.name),
            How::OtherKind => format!(", {} of another kind", self.name),
        }
    }

    /// What is there.
    pub fn now(&self) -> String {
        match self.how {
            How::Appeared => format!(", with {}", self.name),
            How::Gone => format!(", without {}", self.name),
            How::OtherKind => String::new(),
        }
    }
}

/// The first name that differs between a recorded listing and the present one. What appeared comes first: that is what somebody has just made.
pub fn of_names(then: &Names, now: &Names) -> Option<NameDifference> {
    let (then, now) = (map(then), map(now));
    let names: BTreeSet<&[u8]> = then.keys().chain(now.keys()).copied().collect();
    let how = |name: &&[u8]| match (then.get(name), now.get(name)) {
        (None, Some(_)) => Some(How::Appeared),
        (Some(_), None) => Some(How::Gone),
        (then, now) => (then != now).then_some(How::OtherKind),
    };
    let changed: Vec<(&[u8], How)> = names.into_iter().filter_map(|name| Some((name, how(&name)?))).collect();
    let appeared = changed.iter().find(|(_, how)| *how == How::Appeared);
    let (name, how) = appeared.or(changed.first())?;
    Some(NameDifference { name: String::from_utf8_lossy(name).into_owned(), how: *how, more: changed.len() - 1 })
}

fn map(names: &Names) -> BTreeMap<&[u8], u8> {
    names.iter().map(|(name, kind)| (name.as_slice(), *kind)).collect()
}

/// Why a record does not hold: what became of the place that people know as `place`; of the workspace's top that is empty.
pub fn reason(
    place: &str,
    recorded: &Observation,
    present: &io::Result<Observation>,
    names: Option<&NameDifference>,
) -> String {
    if let Some(NameDifference { name, how, more }) = names {
        let place = if place.is_empty() { "the workspace" } else { place };
        let more = match more {
            0 => String::new(),
            1 => ", and 1 more name changed".to_owned(),
            more => format!(", and {more} more names changed"),
        };
        return match how {
            How::Appeared => format!("{place}: {name} appeared{more}"),
            How::Gone => format!("{place}: {name} is gone{more}"),
            How::OtherKind => format!("{place}: {name} is of another kind{more}"),
        };
    }
    let place = if place.is_empty() { "." } else { place };
    match (recorded, present) {
        (_, Err(error)) => format!("{place} cannot be examined: {error}"),
        (Observation::Absent, Ok(_)) => format!("{place} appeared"),
        (_, Ok(Observation::Absent)) => format!("{place} is gone"),
        (Observation::Dir { .. }, Ok(Observation::Dir { .. })) => format!("the mode of {place} changed"),
        (Observation::Listing { digest, .. }, Ok(Observation::Listing { digest: now, .. })) if digest == now => {
            format!("the mode of {place} changed")
        }
        (Observation::Listing { .. }, Ok(Observation::Listing { .. })) => format!("the names in {place} changed"),
        (Observation::File { digest, .. }, Ok(Observation::File { digest: now, .. })) if digest == now => {
            format!("the mode of {place} changed")
        }
        _ => format!("{place} changed"),
    }
}

/// A fact in a few words.
pub fn describe(fact: &Observation) -> String {
    match fact {
        Observation::Absent => "absent".to_owned(),
        Observation::Dir { mode } => format!("directory mode {mode:04o}"),
        Observation::Listing { digest, mode } => format!("names {} mode {mode:04o}", digest.short()),
        Observation::File { digest, mode } => format!("file {} mode {mode:04o}", digest.short()),
        Observation::Link { target } => {
            format!("link to {}", String::from_utf8_lossy(target).replace('\0', ""))
        }
        Observation::Opaque { kind, .. } => format!("{kind:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use wink_store::Digest;

    use super::*;

    fn names(list: &[&str]) -> Names {
        let pair = |word: &str| match word.strip_suffix('/') {
            Some(name) => (name.as_bytes().to_vec(), b'd'),
            None => (word.as_bytes().to_vec(), b'f'),
        };
        list.iter().map(|word| pair(word)).collect()
    }

    fn said(place: &str, then: &[&str], now: &[&str]) -> String {
        let difference = of_names(&names(then), &names(now));
        let listing = |seed: &[u8]| Observation::Listing { digest: Digest::of(seed), mode: 0o755 };
        reason(place, &listing(b"then"), &Ok(listing(b"now")), difference.as_ref())
    }

    #[test]
    fn a_listing_names_what_appeared_or_went() {
        assert_eq!(said("src", &["a", "b"], &["a", "b", "new.c"]), "src: new.c appeared");
        assert_eq!(said("src", &["a", "b"], &["b"]), "src: a is gone");
        assert_eq!(said("src", &["a", "b"], &["b", "c"]), "src: c appeared, and 1 more name changed");
        assert_eq!(said("", &["a"], &["a/"]), "the workspace: a is of another kind");
        assert_eq!(said("/usr/lib", &[], &["x", "y", "z"]), "/usr/lib: x appeared, and 2 more names changed");
        // Without names, or where these explain nothing.
        assert_eq!(said("src", &["a"], &["a"]), "the names in src changed");
    }
}
