//! What the compiler does not check: layering, module documentation, file length, leftovers, paths of a build machine.

use std::fs;
use std::path::{Path, PathBuf};

/// DESIGN §7: 100–400 lines is the aim, this is where a file must have been split.
const MOST_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `top` with this extension, dot directories, `target` and installed packages apart.
fn files(top: &str, extension: &str) -> Vec<PathBuf> {
    let mut todo = vec![root().join(top)];
    let mut found = Vec::new();
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && name != "target" && name != "node_modules" {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources(top: &str) -> Vec<(PathBuf, String)> {
    files(top, "rs").into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// Code with line comments taken off (a `//` inside a string loses the rest of its line: no rule below minds).
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether `word` stands in `text` as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    let inside = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(inside) && !text[at + word.len()..].starts_with(inside))
}

#[track_caller]
fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn the_rules_can_be_broken() {
    assert!(has_word("use fuser::Session;", "fuser") && !has_word("a_fuser_b", "fuser"));
    assert_eq!(code("a // b\nc"), "a \nc");
    assert!(!files("store", "rs").is_empty() && !files("tests", "rs").is_empty());
}

#[test]
fn layers_point_one_way() {
    let rules: [(&str, &[&str]); 3] = [
        ("store", &["wink_fs", "wink_platform", "winkfs", "fuser", "winfsp"]),
        ("fs", &["wink_platform", "winkfs", "fuser", "winfsp"]),
        ("platform", &["winkfs"]),
    ];
    for (layer, forbidden) in rules {
        let named = |text: &str| forbidden.iter().find(|word| has_word(text, word)).copied();
        let texts = sources(layer);
        let found = texts.iter().filter_map(|(path, text)| Some(format!("{}: {}", name(path), named(&code(text))?)));
        none(found.collect(), "a lower layer names a higher one, or the kernel interface");
        let manifest = fs::read_to_string(root().join(layer).join("Cargo.toml")).unwrap();
        let keys =
            manifest.lines().filter_map(|line| line.split(['=', '.', ' ']).next()).map(|key| key.replace('-', "_"));
        none(keys.filter(|key| forbidden.contains(&key.as_str())).collect(), &format!("{layer}/Cargo.toml depends on"));
    }
    let src = sources("src");
    let kernel = src.iter().filter(|(_, text)| has_word(&code(text), "fuser") || has_word(&code(text), "winfsp"));
    none(kernel.map(|(path, _)| name(path)).collect(), "the program talks to the kernel through `platform`");
}

#[test]
fn unsafe_lives_in_platform_only() {
    for top in ["src", "fs", "store", "tests", "benches"] {
        let found = sources(top)
            .into_iter()
            .filter(|(path, text)| !path.ends_with("tests/tidy.rs") && has_word(&code(text), "unsafe"));
        none(found.map(|(path, _)| name(&path)).collect(), "unsafe outside of platform");
    }
    for entry in ["src/lib.rs", "fs/src/lib.rs", "store/src/lib.rs"] {
        let text = fs::read_to_string(root().join(entry)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{entry} lacks #![forbid(unsafe_code)]");
    }
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources("").into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none(silent.map(|(path, _)| name(&path)).collect(), "no `//!` in the first line");
}

#[test]
fn files_stay_short() {
    let long = sources("").into_iter().filter(|(path, text)| {
        let tests = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        !tests && text.lines().count() > MOST_LINES
    });
    none(long.map(|(path, _)| name(&path)).collect(), "longer than 800 lines");
}

#[test]
fn nothing_is_left_undone() {
    let words = ["todo", "unimplemented", "dbg"];
    let found = sources("").into_iter().filter_map(|(path, text)| {
        let code = code(&text);
        let word = words.iter().find(|word| has_word(&code, word) && code.contains(&format!("{word}!")))?;
        (!path.ends_with("tests/tidy.rs")).then(|| format!("{}: {word}!", name(&path)))
    });
    none(found.collect(), "left undone");
}

#[test]
fn no_path_of_a_build_machine() {
    // Put together here, so that this file does not break its own rule; and where this very copy was built.
    let mut machine: Vec<String> = ["/ro§ot/.", "/ho§me/runner", "/Us§ers/"].map(|path| path.replace('§', "")).into();
    // Where sources are written, that is; a checkout elsewhere may well lie at a place that an example names.
    let here = std::env::var_os("CI").is_none();
    machine.extend(root().to_str().filter(|path| here && path.matches('/').count() > 1).map(str::to_owned));
    let text_files = ["rs", "toml", "md", "sh", "json", "yml", "c"].iter().flat_map(|extension| files("", extension));
    let extra = ["check", ".ci/run"].map(|path| root().join(path)).into_iter().filter(|path| path.exists());
    let found = text_files.chain(extra).filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        let hit = machine.iter().find(|place| text.contains(place.as_str()))?;
        Some(format!("{}: {hit}", name(&path)))
    });
    none(found.collect(), "a path of one machine");
}
