//! What differs between two task keys, in words.
//!
//! The values of most variables are not known, only whether they are the same. A value is shown where it was kept
//! ([`crate::environment::TOLD`]) and is short.

use std::collections::BTreeSet;

use super::KeyParts;

/// The longest value that is shown, in characters.
const SHOWN_MAX: usize = 60;

/// One part that differs.
#[derive(Debug, PartialEq, Eq)]
pub struct PartDifference {
    /// What differs, for people; a whole clause.
    pub text: String,
    /// The file it is about, relative to the workspace, if it is a declared input: then and now.
    pub file: Option<(String, Option<String>, Option<String>)>,
}

impl From<String> for PartDifference {
    fn from(text: String) -> PartDifference {
        PartDifference { text, file: None }
    }
}

impl KeyParts {
    /// Every part that differs from an earlier key's, the most telling first.
    pub fn differences(&self, earlier: &KeyParts) -> Vec<PartDifference> {
        let mut found: Vec<PartDifference> = Vec::new();
        if self.version != earlier.version {
            found.push("the version of wink changed".to_owned().into());
        }
        if self.argv != earlier.argv {
            found.push("the command line changed".to_owned().into());
        }
        let names: BTreeSet<&String> = self.environment.keys().chain(earlier.environment.keys()).collect();
        let changed = names.into_iter().filter(|name| self.environment.get(*name) != earlier.environment.get(*name));
        found.extend(changed.map(|name| self.variable(earlier, name).into()));
        if self.cwd != earlier.cwd {
            found.push(arrow("the current directory", &dot(&earlier.cwd), &dot(&self.cwd)).into());
        }
        if self.stdin != earlier.stdin {
            found.push("standard input changed".to_owned().into());
        }
        if self.umask != earlier.umask {
            found.push(arrow("the umask", &format!("{:04o}", earlier.umask), &format!("{:04o}", self.umask)).into());
        }
        if self.platform != earlier.platform {
            found.push(arrow("the platform or the user's rights", &earlier.platform, &self.platform).into());
        }
        if self.scope != earlier.scope {
            found.push(arrow("the scope", &earlier.scope, &self.scope).into());
        }
        found.extend(self.declared(earlier));
        if self.own != earlier.own {
            let said = |own: &Option<String>| own.clone().unwrap_or_else(|| "carry".to_owned());
            found.push(arrow("what becomes of earlier outputs", &said(&earlier.own), &said(&self.own)).into());
        }
        if self.terminals != earlier.terminals {
            found.push("whether output goes to a terminal changed".to_owned().into());
        }
        found
    }

    fn variable(&self, earlier: &KeyParts, name: &str) -> String {
        let there = |parts: &KeyParts| parts.environment.contains_key(name);
        let value = |parts: &KeyParts| match parts.values.get(name) {
            Some(value) if value.is_empty() => Some("(empty)".to_owned()),
            Some(value) => Some(value.clone()),
            None => (!there(parts)).then(|| "not set".to_owned()),
        };
        let (then, now) = (value(earlier), value(self));
        if let ("PATH", Some(then), Some(now)) = (name, earlier.values.get(name), self.values.get(name)) {
            return path_list(then, now);
        }
        let short = |value: &Option<String>| value.clone().filter(|value| value.chars().count() <= SHOWN_MAX);
        match (short(&then), short(&now)) {
            (Some(then), Some(now)) if then != now => arrow(name, &then, &now),
            _ => match (there(earlier), there(self)) {
                (false, true) => format!("the environment variable {name} appeared"),
                (true, false) => format!("the environment variable {name} is gone"),
                _ => format!("the environment variable {name} changed"),
            },
        }
    }

    /// Differences in what was declared: settings and files, by name.
    fn declared(&self, earlier: &KeyParts) -> Vec<PartDifference> {
        let of = |parts: &KeyParts, name: &str| -> Vec<String> {
            parts.extras.iter().filter(|(other, _)| other == name).map(|(_, digest)| digest.clone()).collect()
        };
        let names: BTreeSet<&String> = self.extras.iter().chain(&earlier.extras).map(|(name, _)| name).collect();
        let mut found = Vec::new();
        for name in names {
            let (then, now) = (of(earlier, name), of(self, name));
            if then == now {
                continue;
            }
            let what = match name.as_str() {
                "ignore" | "scratch" | "output" | "canonical_root" => format!("the setting {name} changed"),
                "program" => "the program changed".to_owned(),
                "PWD" => "the way to the current directory (PWD) changed".to_owned(),
                "unreadable" => "what cannot be read among the declared inputs changed".to_owned(),
                file => {
                    let how = match (then.is_empty(), now.is_empty()) {
                        (true, _) => "appeared",
                        (_, true) => "is gone",
                        _ => "changed",
                    };
                    let short = |digest: &String| format!("file {}", digest.get(..8).unwrap_or(digest));
                    found.push(PartDifference {
                        text: format!("the declared input {file} {how}"),
                        file: Some((file.to_owned(), then.first().map(short), now.first().map(short))),
                    });
                    continue;
                }
            };
            found.push(what.into());
        }
        // The order of settings counts too.
        if found.is_empty() && self.extras != earlier.extras {
            found.push("a declared input changed".to_owned().into());
        }
        found
    }
}

fn arrow(what: &str, then: &str, now: &str) -> String {
    format!("{what}: {then} → {now}")
}

fn dot(path: &str) -> String {
    if path.is_empty() { ".".to_owned() } else { path.to_owned() }
}

/// What differs between two lists of directories.
fn path_list(then: &str, now: &str) -> String {
    let list = |text: &str| text.split(':').map(str::to_owned).collect::<Vec<_>>();
    let (then, now) = (list(then), list(now));
    let first_not_in = |one: &[String], other: &[String]| one.iter().find(|dir| !other.contains(dir)).cloned();
    match (first_not_in(&now, &then), first_not_in(&then, &now)) {
        (Some(new), None) => format!("PATH: {new} appeared"),
        (None, Some(old)) => format!("PATH: {old} is gone"),
        (Some(new), Some(old)) => arrow("PATH", &old, &new),
        (None, None) => "PATH: the order of the directories changed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parts(environment: &[(&str, &str)], told: &[&str]) -> KeyParts {
        let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let pairs: BTreeMap<String, String> = pairs.collect();
        KeyParts {
            version: 1,
            argv: vec!["x".into()],
            cwd: String::new(),
            flags: crate::key::Flags::default(),
            values: pairs.clone().into_iter().filter(|(name, _)| told.contains(&name.as_str())).collect(),
            environment: pairs,
            stdin: None,
            umask: 0o22,
            platform: "linux x86_64".into(),
            scope: "system".into(),
            extras: Vec::new(),
            own: None,
            terminals: (false, false),
        }
    }

    fn texts(now: &KeyParts, then: &KeyParts) -> Vec<String> {
        now.differences(then).into_iter().map(|difference| difference.text).collect()
    }

    #[test]
    fn values_are_shown_only_where_they_were_kept() {
        let told = ["NODE_ENV", "PATH", "CFLAGS"];
        let one = |name: &str, value: &str| parts(&[(name, value)], &told);
        let none = parts(&[], &told);
        let development = one("NODE_ENV", "development");
        assert_eq!(texts(&one("NODE_ENV", "production"), &development), ["NODE_ENV: development → production"]);
        assert_eq!(texts(&development, &none), ["NODE_ENV: not set → development"]);
        assert_eq!(texts(&none, &development), ["NODE_ENV: development → not set"]);
        assert_eq!(texts(&one("NODE_ENV", ""), &development), ["NODE_ENV: development → (empty)"]);
        assert_eq!(texts(&one("TOKEN", "b"), &one("TOKEN", "a")), ["the environment variable TOKEN changed"]);
        assert_eq!(texts(&one("TOKEN", "b"), &none), ["the environment variable TOKEN appeared"]);
        assert_eq!(texts(&none, &one("TOKEN", "b")), ["the environment variable TOKEN is gone"]);
        // What an older version stored.
        let older = parts(&[("NODE_ENV", "development")], &[]);
        let said = texts(&one("NODE_ENV", "production"), &older);
        assert_eq!(said, ["the environment variable NODE_ENV changed"]);
        let long = "x".repeat(SHOWN_MAX + 1);
        assert_eq!(texts(&one("CFLAGS", &long), &one("CFLAGS", "-O2")), ["the environment variable CFLAGS changed"]);
    }

    #[test]
    fn a_path_list_names_the_directory() {
        let path = |value: &str| parts(&[("PATH", value)], &["PATH"]);
        let base = path("/usr/bin:/bin");
        assert_eq!(texts(&path("/opt/bin:/usr/bin:/bin"), &base), ["PATH: /opt/bin appeared"]);
        assert_eq!(texts(&path("/bin"), &base), ["PATH: /usr/bin is gone"]);
        assert_eq!(texts(&path("/opt/bin:/bin"), &base), ["PATH: /usr/bin → /opt/bin"]);
        assert_eq!(texts(&path("/bin:/usr/bin"), &base), ["PATH: the order of the directories changed"]);
    }

    #[test]
    fn everything_else_has_a_name() {
        let base = parts(&[], &[]);
        let extra = |pairs: &[(&str, &str)]| KeyParts {
            extras: pairs.iter().map(|(name, digest)| ((*name).into(), (*digest).into())).collect(),
            ..base.clone()
        };
        let said = |now: KeyParts| texts(&now, &base).join("; ");
        assert_eq!(said(KeyParts { cwd: "sub".into(), ..base.clone() }), "the current directory: . → sub");
        assert_eq!(said(KeyParts { umask: 0o77, ..base.clone() }), "the umask: 0022 → 0077");
        assert_eq!(
            said(KeyParts { own: Some("hide".into()), ..base.clone() }),
            "what becomes of earlier outputs: carry → hide"
        );
        assert_eq!(said(extra(&[("ignore", "a")])), "the setting ignore changed");
        assert_eq!(said(extra(&[("a.json", "0123456789")])), "the declared input a.json appeared");
        let changed = extra(&[("a.json", "x")]).differences(&extra(&[("a.json", "0123456789")]));
        let file = ("a.json".to_owned(), Some("file 01234567".to_owned()), Some("file x".to_owned()));
        assert_eq!(changed, [PartDifference { text: "the declared input a.json changed".into(), file: Some(file) }]);
    }
}
