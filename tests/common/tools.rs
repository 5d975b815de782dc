//! The real tools that tests drive, and how to go without one: `skipped: why` on stdout, or a failure when
//! `WINK_TEST_REQUIRE=1` (`.ci/run` sets it, so that nothing is skipped silently there).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const TYPESCRIPT: &str = "5.4.5";
const PNPM: &str = "9.15.9";
const FLUID: &str = r#"{ "name": "tools", "private": true, "dependencies": { "@fluidframework/build-tools": "0.57.0", "typescript": "5.4.5", "eslint": "8.57.1", "vite": "5.4.21" } }"#;
const JUST: &str = "1.57.0";
const PROJECT: &str = r#"{ "name": "fixture", "version": "1.0.0", "private": true, "dependencies": { "ms": "2.1.3", "semver": "7.6.3" } }"#;

/// Says why a test does not run here.
pub fn skip(why: &str) {
    assert!(std::env::var_os("WINK_TEST_REQUIRE").is_none(), "WINK_TEST_REQUIRE is set, and: {why}");
    println!("skipped: {why}");
}

/// Unwraps a tool or leaves the test with a printed reason.
#[macro_export]
macro_rules! need {
    ($tool:expr) => {
        match $tool {
            Ok(tool) => tool,
            Err(why) => return $crate::common::tools::skip(&why),
        }
    };
}

/// The search path of every call: the toolchain's own cargo (not rustup's proxy, which wants the real home), node's
/// directory, and the system's.
pub fn path() -> OsString {
    let mut dirs: Vec<PathBuf> = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from).into();
    let cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let node = which("node").ok();
    dirs.extend([cargo, node].into_iter().flatten().filter_map(|tool| Some(tool.parent()?.to_path_buf())));
    dirs.dedup();
    std::env::join_paths(dirs).unwrap()
}

/// Where `name` is, by the caller's PATH.
pub fn which(name: &str) -> Result<PathBuf, String> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("no `{name}` in PATH"))
}

/// A tool that the system has, or that apt can bring when we are root.
fn system(name: &str, package: &str) -> Result<PathBuf, String> {
    static APT: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = APT.lock();
    let fixed = PathBuf::from("/usr/bin").join(name);
    if fixed.is_file() {
        return Ok(fixed);
    }
    if let Ok(path) = which(name) {
        return Ok(path);
    }
    if is_root() && which("apt-get").is_ok() {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "-q", package]).env("DEBIAN_FRONTEND", "noninteractive");
        let _ = apt.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    which(name).map_err(|why| format!("{why}, and apt-get brought none"))
}

pub fn strace() -> Result<PathBuf, String> {
    system("strace", "strace")
}

/// The system's python, not a version switcher's script.
pub fn python() -> Result<String, String> {
    Ok(system("python3", "python3")?.to_str().unwrap().to_owned())
}

pub fn gcc() -> Result<PathBuf, String> {
    system("gcc", "gcc")
}

pub fn make() -> Result<PathBuf, String> {
    gcc()?;
    system("make", "make")
}

/// `fusermount3`, the set-user-ID program that mounts for ordinary users.
pub fn fusermount() -> Result<PathBuf, String> {
    system("fusermount3", "fuse3")
}

/// A browser. Not brought by apt-get when it is missing, as the small tools are: it is large, and `.ci/run` installs it.
pub fn chromium() -> Result<PathBuf, String> {
    which("chromium")
}

/// `unshare`, and the right to use it with these flags.
pub fn unshare(flags: &[&str]) -> Result<PathBuf, String> {
    let path = system("unshare", "util-linux")?;
    let tried = Command::new(&path).args(flags).arg("true").stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => Ok(path),
        _ => Err(format!("unshare {} is not permitted here", flags.join(" "))),
    }
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

pub fn root() -> Result<(), String> {
    if is_root() { Ok(()) } else { Err("needs root".into()) }
}

/// Where `tests/` is.
pub fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A directory of `tests/.cache`, filled once: `fill` works in an unfinished one, which is renamed when all is well.
fn cached(name: &str, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let dir = tests().join(".cache").join(name);
    if !dir.is_dir() {
        let unfinished = tests().join(format!(".cache/installing-{name}-{}", std::process::id()));
        fs::create_dir_all(&unfinished).map_err(|error| error.to_string())?;
        let filled = fill(&unfinished);
        // Another process may have been first.
        let done = filled.is_ok() && fs::rename(&unfinished, &dir).is_ok();
        let _ = done || fs::remove_dir_all(&unfinished).is_ok();
        filled?;
    }
    Ok(dir)
}

/// Runs a program that fetches packages, with the caller's environment.
fn fetch(program: &str, args: &[&str], dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    let run = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output();
    let run = run.map_err(|error| format!("{program}: {error}"))?;
    let said = || format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if run.status.success() { Ok(()) } else { Err(format!("{program} {}: {}", args.join(" "), said())) }
}

/// A project with two packages and what installs it without a network: `project/` with the lock files of npm and pnpm, `npm/` the
/// cache of npm, `store/` that of pnpm, and pnpm itself below `tool/`.
pub fn packages() -> Result<PathBuf, String> {
    static ONCE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        system("node", "nodejs")?;
        system("npm", "npm")?;
        cached("packages-1", |dir| {
            let (project, tool) = (dir.join("project"), dir.join("tool"));
            let write = |dir: &Path, text: &str| {
                fs::create_dir_all(dir)
                    .and_then(|()| fs::write(dir.join("package.json"), text))
                    .map_err(|e| e.to_string())
            };
            write(&tool, "{ \"private\": true }")?;
            write(&project, PROJECT)?;
            let pnpm = format!("pnpm@{PNPM}");
            let npm = ["install", "--no-audit", "--no-fund", "--cache", "../npm"];
            fetch("npm", &npm, &project)?;
            fs::remove_dir_all(project.join("node_modules")).map_err(|error| error.to_string())?;
            fetch("npm", &["install", "--no-save", "--no-audit", "--no-fund", &pnpm], &tool)?;
            let pnpm = "../tool/node_modules/pnpm/bin/pnpm.cjs";
            fetch("node", &[pnpm, "install", "--store-dir", "../store"], &project)?;
            fs::remove_dir_all(project.join("node_modules")).map_err(|error| error.to_string())
        })
    })
    .clone()
}

/// node, and the pinned TypeScript in `tests/.cache` (installed once): `(node, node_modules)`.
pub fn typescript() -> Result<(PathBuf, PathBuf), String> {
    static ONCE: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let node = system("node", "nodejs")?;
        let dir = tests().join(format!(".cache/typescript-{TYPESCRIPT}"));
        let modules = dir.join("node_modules");
        if !modules.join("typescript/lib/tsc.js").is_file() {
            system("npm", "npm")?;
            let unfinished = tests().join(format!(".cache/installing-{}", std::process::id()));
            fs::create_dir_all(&unfinished).map_err(|error| error.to_string())?;
            for name in ["package.json", "package-lock.json"] {
                let from = tests().join("fixtures/typescript").join(name);
                fs::copy(from, unfinished.join(name)).map_err(|error| error.to_string())?;
            }
            let npm = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&unfinished).output();
            let npm = npm.map_err(|error| error.to_string())?;
            let done = npm.status.success() && (fs::rename(&unfinished, &dir).is_ok() || modules.is_dir());
            let _ = fs::remove_dir_all(&unfinished);
            if !done {
                return Err(format!("npm ci of typescript: {}", String::from_utf8_lossy(&npm.stderr)));
            }
        }
        Ok((node, modules))
    })
    .clone()
}

/// npm, with node.
pub fn npm() -> Result<PathBuf, String> {
    system("node", "nodejs")?;
    system("npm", "npm")
}

/// `just`, of the system or from its npm package.
pub fn just() -> Result<PathBuf, String> {
    static ONCE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        which("just").or_else(|_| {
            npm()?;
            let dir = cached("just-1", |dir| {
                let package = format!("rust-just@{JUST}");
                fetch("npm", &["install", "--no-audit", "--no-fund", "--prefix", ".", &package], dir)
            })?;
            let found = [dir.join("node_modules/.bin/just"), dir.join("node_modules/rust-just/bin/just")];
            found.into_iter().find(|path| path.exists()).ok_or_else(|| "rust-just has no just".to_owned())
        })
    })
    .clone()
}

/// A directory in whose `node_modules` are fluid-build and the tools that it drives, pinned.
pub fn fluid() -> Result<PathBuf, String> {
    static ONCE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        npm()?;
        cached("fluid-1", |dir| {
            fs::write(dir.join("package.json"), FLUID).map_err(|error| error.to_string())?;
            fetch("npm", &["install", "--no-audit", "--no-fund", "--ignore-scripts"], dir)
        })
    })
    .clone()
}

/// The directory with Lua's C sources, from the crate that carries them.
pub fn lua() -> Result<PathBuf, String> {
    static ONCE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        make()?;
        let manifest = tests().join("fixtures/lua/Cargo.toml");
        let cargo = |args: &[&str]| {
            let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
            let run = Command::new(cargo).args(args).arg("--manifest-path").arg(&manifest).output();
            let run = run.map_err(|error| error.to_string())?;
            match run.status.success() {
                true => Ok(run.stdout),
                false => Err(format!("cargo {}: {}", args[0], String::from_utf8_lossy(&run.stderr))),
            }
        };
        let offline = ["metadata", "--format-version=1", "--locked", "--offline"];
        let metadata = cargo(&offline).or_else(|_| {
            cargo(&["fetch", "--locked"])?;
            cargo(&offline)
        })?;
        let json: serde_json::Value = serde_json::from_slice(&metadata).map_err(|error| error.to_string())?;
        let packages = json["packages"].as_array().ok_or("cargo metadata without packages")?;
        let package = packages.iter().find(|package| package["name"] == "lua-src").ok_or("no lua-src")?;
        let dir = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().join("lua-5.4.7");
        if dir.join("lapi.c").is_file() { Ok(dir) } else { Err(format!("{} has no lapi.c", dir.display())) }
    })
    .clone()
}

/// The toolchain's cargo.
pub fn cargo() -> Result<PathBuf, String> {
    std::env::var_os("CARGO").map(PathBuf::from).ok_or_else(|| "not started by cargo".into())
}

/// A shell line for a mount namespace of its own: makes `/dev/fuse` a device that everybody may open, then becomes an ordinary user and runs `$@`.
/// `device` is where that device is made, unless it is there.
pub fn as_ordinary_user(device: &Path, user: u32) -> String {
    format!(
        "[ -e {0} ] || mknod -m 666 {0} c 10 229; chmod 666 {0}; mount --bind {0} /dev/fuse; \
         exec setpriv --reuid={user} --regid={user} --clear-groups \"$@\"",
        device.display()
    )
}
