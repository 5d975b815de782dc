//! Globs over plain strings: `*` is any run of bytes, `?` any one byte, everything else itself.
//!
//! [`matches()`] is for command lines and names of variables, where `/` means nothing; [`matches_glob()`] for files, where it does.
//! The time is at most the product of both lengths.

/// Whether the whole `text` matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: let that `*` eat one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while pos < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, pos));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[pos] => {
                at += 1;
                pos += 1;
            }
            _ => match retry {
                Some((after, eaten)) => {
                    retry = Some((after, eaten + 1));
                    (at, pos) = (after, eaten + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Whether a glob of `ignore`, `input` or `output` matches a path relative to the workspace.
///
/// `*` and `?` stay within a name, `**` is any number of directories. A glob without a slash, but at its end, matches at any
/// depth; one with a slash starts at the workspace. What matches a directory matches everything in it; `dist/**` matches `dist`.
pub fn matches_glob(glob: impl AsRef<str>, path: &[u8]) -> bool {
    let glob = glob.as_ref();
    let glob = glob.strip_prefix("./").unwrap_or(glob);
    let anywhere = !glob.trim_end_matches('/').contains('/');
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    let names: Vec<&[u8]> = names.collect();
    let parts = glob.split('/').filter(|part| !part.is_empty());
    // Which numbers of leading names the parts so far can match.
    let mut reached = vec![anywhere; names.len() + 1];
    reached[0] = true;
    let mut is_empty = true;
    for part in parts {
        is_empty = false;
        if part == "**" {
            let first = reached.iter().position(|reached| *reached);
            let first = first.unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for (at, name) in names.iter().enumerate().rev() {
                reached[at + 1] = reached[at] && matches(part.as_bytes(), name);
            }
            reached[0] = false;
        }
    }
    !is_empty && reached.contains(&true)
}

#[cfg(test)]
mod tests {
    use super::{matches, matches_glob};

    #[test]
    fn globs_of_files() {
        let yes = [
            ("*.log", "a.log"),
            ("*.log", "x/y/a.log"),
            ("dist/**", "dist/a/b"),
            ("dist/**", "dist"),
            ("dist/", "x/dist/a"),
            ("/dist", "dist/a"),
            ("./dist/*", "dist/a"),
            ("**/t/*.c", "t/a.c"),
            ("**/t/*.c", "x/y/t/a.c"),
            ("a/**/b", "a/b"),
            ("a/**/b", "a/x/y/b/c"),
            ("**", "a"),
        ];
        let no = [
            ("dist/**", "x/dist/a"),
            ("/dist", "x/dist"),
            ("a/*/b", "a/b"),
            ("a/*/b", "a/x/y/b"),
            ("*.log", "a.logs"),
            ("dist/*.js", "dist/x/a.js"),
            ("a/**/b", "a/x"),
            ("", "a"),
            ("/", "a"),
        ];
        for (glob, path) in yes {
            assert!(matches_glob(glob, path.as_bytes()), "{glob} {path}");
        }
        for (glob, path) in no {
            assert!(!matches_glob(glob, path.as_bytes()), "{glob} {path}");
        }
    }

    #[test]
    fn globs() {
        let yes =
            [("*", ""), ("SSH_*", "SSH_TTY"), ("GPG_*TTY*", "GPG_TTY"), ("a?c", "abc"), ("*b*b", "abab"), ("", "")];
        let no = [("SSH_*", "SSH"), ("a?c", "ac"), ("a", "ab"), ("", "a"), ("*b", "ba"), ("PS1", "PS12")];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_end_in_time() {
        assert!(!matches(&b"*a".repeat(50), &[b'b'; 5000]));
    }
}
