//! What the program reads: configuration, globs, places in words, what the daemon is asked and answers, what keys were made of.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use winkfs::decoders::{
    Attached, Config, KeyParts, MountStatus, Reply, Request, Roots, Status, Text, Transport, matches, matches_glob,
};

use crate::bytes::{Pieces, piece};

/// The configuration with the user's file, or a variable, being these bytes.
fn load(file: Option<(&str, &[u8])>, variable: Option<(&str, &[u8])>) -> anyhow::Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let mut environment: Vec<(OsString, OsString)> = vec![("HOME".into(), dir.path().into())];
    if let Some((name, bytes)) = file {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        environment.push(("WINK_CONFIG".into(), path.into()));
    }
    if let Some((name, bytes)) = variable {
        environment.push((name.into(), OsString::from_vec(bytes.to_vec())));
    }
    Config::load(dir.path(), environment)
}

fn check(loaded: anyhow::Result<Config>) -> bool {
    match loaded {
        Ok(config) => {
            let _ = config.show();
            config.show_json();
            config.for_task(&["npm", "run", "build"]);
            true
        }
        Err(error) => {
            let _ = format!("{error:#}");
            false
        }
    }
}

pub fn config_toml(bytes: &[u8]) -> bool {
    check(load(Some(("config.toml", bytes)), None))
}

pub fn config_toml_seeds() -> Vec<Vec<u8>> {
    let all = "cache_dir = \"~/c\"\nmax_size = \"1.5 GB\"\nmaxAge = \"30d\"\nverify_integrity = true\nexclude_packages = [\"a\"]\n\
        cache_failures = false\nscope = \"workspace\"\nown = \"hide\"\ncanonical_root = \"/w\"\nignore = [\"*.log\", \"dist/**\"]\n\
        scratch = []\n[env]\nmode = \"strict\"\npass = [\"A*\"]\ninclude = [\"B\"]\n[[task]]\nmatch = \"npm run *\"\nown = \"observe\"\n\
        input = [\"x\"]\noutput = [\"dist/**\"]\nenv = { pass = [\"C\"] }\n";
    vec![all.into(), b"max_size = 10_000\nown = 'carry'\n".to_vec(), b"a = [[[{b={c=1979-05-27T07:32:00Z}}]]]".to_vec()]
}

pub fn config_json(bytes: &[u8]) -> bool {
    check(load(Some(("config.json", bytes)), None))
}

pub fn config_json_seeds() -> Vec<Vec<u8>> {
    let all = r#"{"$schema":"x","cacheDir":"/c","maxSize":"1.5 GB","max_age":"30d","verifyIntegrity":true,"excludePackages":["a"],
        "scope":"system","own":"carry","canonicalRoot":"/w","ignore":["*.log"],"scratch":[],
        "env":{"mode":"loose","pass":["A*"],"include":["B"]},"task":[{"match":"npm run *","cacheFailures":true,"output":["dist/**"]}]}"#;
    vec![all.into(), br#"{"own":"hide","own":"carry"}"#.to_vec(), b"{}".to_vec()]
}

pub fn tasks(bytes: &[u8]) -> bool {
    // The lists of texts too.
    load(None, Some(("WINK_IGNORE", bytes))).map(drop).unwrap_or_default();
    check(load(None, Some(("WINK_TASK", bytes))))
}

pub fn tasks_seeds() -> Vec<Vec<u8>> {
    let all = r#"[{"match":"npm run *","own":"observe","env":{"mode":"strict"},"input":["a"]},{"match":"*","scope":"workspace"}]"#;
    vec![all.into(), b"[]".to_vec(), b"[[[[[[[[]]]]]]]]".to_vec()]
}

pub fn units(bytes: &[u8]) -> bool {
    let size = load(None, Some(("WINK_MAX_SIZE", bytes)));
    let age = load(None, Some(("WINK_MAX_AGE", bytes)));
    if let Ok(config) = &age {
        // What is shown means the same when it is read.
        let shown = config.show_json()["max_age"]["value"].clone();
        let again = load(None, Some(("WINK_MAX_AGE", shown.as_str().unwrap_or("none").as_bytes()))).unwrap();
        assert_eq!(again.max_age.value, config.max_age.value, "{shown}");
    }
    check(size) | check(age)
}

pub fn units_seeds() -> Vec<Vec<u8>> {
    ["10GB", "10GiB", "1.5 k", "none", "30d", "90s", "18446744073709551615", "1e9"].map(|text| text.into()).into()
}

/// A glob and a path, compared with the plainest way to say what a glob means.
pub fn glob(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    let (glob, path) = (pieces.string(), pieces.0);
    let (glob, path) = (&glob[..glob.len().min(200)], &path[..path.len().min(200)]);
    let found = matches(glob, path);
    if glob.len() <= 12 && path.len() <= 24 {
        assert_eq!(found, plainly(glob, path), "{glob:?} {path:?}");
    }
    let text = String::from_utf8_lossy(glob);
    let in_tree = matches_glob(&text, path);
    // What matches a directory matches what is in it.
    if in_tree {
        assert!(matches_glob(&text, &[path, b"/below"].concat()), "{text:?} {path:?}");
    }
    found || in_tree
}

fn plainly(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', pattern)), None) => plainly(pattern, text),
        (Some((b'*', rest)), Some((_, fewer))) => plainly(rest, text) || plainly(pattern, fewer),
        (Some((b'?', pattern)), Some((_, text))) => plainly(pattern, text),
        (Some((one, pattern)), Some((other, text))) => one == other && plainly(pattern, text),
        _ => false,
    }
}

pub fn glob_seeds() -> Vec<Vec<u8>> {
    let pairs = [
        ("*.log", "x/a.log"),
        ("dist/**", "dist/a/b"),
        ("/a/**/b", "a/x/b"),
        ("./a?/*", "ab/c"),
        ("npm run *", "npm run build"),
        ("**", "a"),
        ("a*b*c", "aXbbYc"),
    ];
    pairs.map(|(glob, path)| [piece(glob.as_bytes()), path.into()].concat()).into()
}

/// A workspace, a home, and a list of paths that were looked at: what is classified is what it was.
pub fn places(bytes: &[u8]) -> bool {
    let mut pieces = Pieces(bytes);
    let absolute = |bytes: &[u8]| PathBuf::from(OsString::from_vec([b"/", bytes].concat()));
    let (workspace, home) = (absolute(pieces.string()), absolute(pieces.string()));
    let plain =
        |path: &Path| path.as_os_str().as_bytes().split(|byte| *byte == b'/').all(|name| !matches!(name, b"." | b".."));
    let contains_nul = |path: &Path| path.as_os_str().as_bytes().contains(&0);
    // Both are canonical where they come from.
    if ![&workspace, &home].into_iter().all(|path| plain(path) && !contains_nul(path)) {
        return false;
    }
    let roots = Roots::new(&workspace, Some(&home));
    let mut paths: Vec<Vec<u8>> = Vec::new();
    while !pieces.is_empty() && paths.len() < 64 {
        paths.push([b"/", pieces.string()].concat());
    }
    let borrowed: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
    let (trees, _) = roots.classify(&borrowed);
    for (path, tree) in paths.iter().zip(&trees) {
        if path.contains(&0) {
            continue;
        }
        let back = roots.absolute(tree);
        assert_eq!(normal(&back), normal(path), "{tree} is not where it was");
        if let Some(fixed) = roots.fixed(tree) {
            assert_eq!(normal(&roots.absolute(&fixed)), normal(path), "{fixed} is not where it was");
        }
    }
    // Words come back as they were, whatever they hold.
    let words = bytes;
    assert_eq!(roots.restore(&roots.substitute(words), normal(workspace.as_os_str().as_bytes()).as_slice()), words);
    !paths.is_empty()
}

fn normal(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.iter().flat_map(|name| [b"/", *name].concat()).collect()
}

pub fn places_seeds() -> Vec<Vec<u8>> {
    let all = [
        "home/u/w/repo",
        "home/u",
        "home/u/w/repo/src",
        "home/u/w/other",
        "home/u/.cache",
        "usr/lib",
        "home/u/w/.cache",
        "",
    ];
    let one = all.map(|path| piece(path.as_bytes())).concat();
    let words = [piece(b"w"), piece(b"h"), b"-I/w/include /w2 src/w /h/.x \0W".to_vec()].concat();
    vec![one, words, [piece(b""), piece(b""), piece(b"a/../../b")].concat()]
}

/// What either end may say to the other.
pub fn protocol(bytes: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let said = serde_json::to_vec(&request).unwrap();
        let again: Request = serde_json::from_slice(&said).unwrap();
        assert_eq!(serde_json::to_vec(&again).unwrap(), said);
        accepted = true;
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let said = serde_json::to_vec(&reply).unwrap();
        let again: Reply = serde_json::from_slice(&said).unwrap();
        assert_eq!(serde_json::to_vec(&again).unwrap(), said);
        accepted = true;
    }
    accepted
}

pub fn protocol_seeds() -> Vec<Vec<u8>> {
    let root = b"/work/\xff repo".to_vec();
    let pack = Some(Attached { at: b"out".to_vec(), pack: "00".repeat(32), first_ns: -1, step_ns: 1 });
    let requests = [
        Request::Status,
        Request::Stop,
        Request::Mount { root: root.clone(), private: true, transport: Transport::Auto },
        Request::Mounted { root: root.clone(), dev: u64::MAX },
        Request::Find { dev: 1 },
        Request::Attach { root: root.clone(), remove: vec![Text(b"a/b".to_vec())], pack },
        Request::Mend { root: root.clone() },
        Request::Settle { root: root.clone() },
        Request::Materialize { root: root.clone(), path: Vec::new() },
    ];
    let mount = MountStatus {
        dir: "/work".into(),
        private: false,
        dev: 7,
        view_files: 1,
        view_bytes: 2,
        nodes: 3,
        open_files: 4,
        lent_files: 5,
    };
    let status = Status { version: "0".into(), pid: 1, uptime_ms: 2, mounts: vec![mount] };
    let replies =
        [Reply::Status(status), Reply::Found { root }, Reply::NotMounted, Reply::Done(1), Reply::Failed("no".into())];
    let requests = requests.iter().map(|request| serde_json::to_vec(request).unwrap());
    requests.chain(replies.iter().map(|reply| serde_json::to_vec(reply).unwrap())).collect()
}

pub fn key_parts(bytes: &[u8]) -> bool {
    let Ok(parts) = serde_json::from_slice::<KeyParts>(bytes) else { return false };
    let again: KeyParts = serde_json::from_slice(&serde_json::to_vec(&parts).unwrap()).unwrap();
    assert_eq!(again, parts);
    assert!(again.differences(&parts).is_empty());
    true
}

pub fn key_parts_seeds() -> Vec<Vec<u8>> {
    let all = r#"{"version":1,"argv":["00ff"],"cwd":"src","environment":{"PATH":"00"},"stdin":null,"umask":18,"platform":"linux x86_64",
        "scope":"system","extras":[["a","b"]],"own":"hide","terminals":[true,false]}"#;
    vec![all.into()]
}
