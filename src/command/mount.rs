//! `wink mount`, `unmount`, `status`, `materialize`: a working tree served through wink.
//!
//! The client mounts, since it knows the namespace it was called in, and hands the device to the daemon together with the real directory
//! beneath, which it opened before it was covered.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use wink_platform::unix::enter::{self, Scope};
use wink_platform::unix::mount::{self, UnmountError};
use wink_platform::unix::mount_users::{Process, standing_beneath, users};
use wink_platform::unix::mounts::{is_dead, mounts};
use wink_store::Store;

use crate::config::Config;
use crate::daemon::client::{Client, Ended};
use crate::daemon::protocol::{MountStatus, Reply, Request, Status};
use crate::mounted::{Mount, replay};
use crate::progress::waiting;
use crate::shelf::StoreShelf;
use crate::workspace;

/// How long the daemon may take to notice that a mount has gone.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is asked.
const NOTICE_POLL: Duration = Duration::from_millis(5);
/// How long a child may take to mount in its namespace.
const ENTER_TIMEOUT: Duration = Duration::from_secs(20);
/// What is said while views are made real, if that takes long.
const MAKING_REAL: &str = "making views real";
/// How many processes are named in one line.
const NAMED_MAX: usize = 5;

/// `wink mount`.
#[derive(Debug, clap::Args)]
pub struct MountArgs {
    /// The directory [default: the workspace that the current directory lies in]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Mount for one command only, in a namespace of its own: needs neither privileges nor fusermount3
    #[arg(long, requires = "command")]
    pub private: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// With --private: the command, usually a shell
    #[arg(last = true, value_name = "COMMAND", requires = "private")]
    pub command: Vec<OsString>,
}

/// `wink unmount`.
#[derive(Debug, clap::Args)]
pub struct UnmountArgs {
    /// The directory [default: the mounted one that the current directory lies in]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Make every view a real file first, so that nothing goes out of sight
    #[arg(long)]
    pub materialize: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `wink materialize`.
#[derive(Debug, clap::Args)]
pub struct MaterializeArgs {
    /// Files and directories [default: the current directory]
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Mounts; returns the exit code of the command, if there is one.
pub fn mount(args: &MountArgs) -> anyhow::Result<i32> {
    let (dir, config) = place(args.dir.as_deref())?;
    if args.private {
        return privately(&config, dir, &args.command);
    }
    let status = serve(&config, &dir)?;
    let beneath = status.beneath;
    if args.json {
        println!("{}", serde_json::json!({ "dir": dir.to_string_lossy(), "view_files": status.views.view_files }));
        return Ok(0);
    }
    println!("{} is mounted{}", dir.display(), shown(&status.views));
    if !beneath.is_empty() {
        println!(
            "still in the real directory beneath, where no view shows, until they enter it again (`cd .` in a shell): {}",
            named(&beneath)
        );
    }
    Ok(0)
}

/// What came of mounting.
struct Serving {
    views: MountStatus,
    beneath: Vec<Process>,
}

fn place(dir: Option<&Path>) -> anyhow::Result<(PathBuf, Config)> {
    let named = dir.map_or_else(|| Path::new(".").to_owned(), Path::to_owned);
    clear_dead(&named)?;
    let found = named.canonicalize().with_context(|| format!("cannot mount {}", named.display()))?;
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    let root = if dir.is_some() { found } else { workspace::find(&found, home.as_deref())?.root };
    ensure!(root.is_dir(), "{} is not a directory", root.display());
    let config = Config::load(&root, std::env::vars_os())?;
    Ok((root, config))
}

/// Takes away a dead mount that is about to be mounted again, and brings one back that the directory lies in.
fn clear_dead(dir: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(dir)?;
    if !mounts()?.iter().any(|mounted| mounted.dir == absolute) {
        return revive(dir);
    }
    let cwd = std::env::current_dir();
    let _turn = turn(&absolute);
    if is_dead(&absolute) {
        mount::unmount(&absolute, true)?;
        if let Some(cwd) = cwd.ok().filter(|cwd| cwd.starts_with(&absolute)) {
            std::env::set_current_dir(cwd)?;
        }
    }
    Ok(())
}

/// Waits until nobody else mounts or brings back what lies beside `dir`: two that do so at once would cover, or take away, what the other
/// has just mounted. Where the directory above cannot be locked nobody waits.
fn turn(dir: &Path) -> Option<File> {
    let above = File::open(dir.parent()?).ok()?;
    above.lock().ok()?;
    Some(above)
}

/// Mounts `dir` over itself and has the daemon serve it.
fn serve(config: &Config, dir: &Path) -> anyhow::Result<Serving> {
    let _turn = turn(dir);
    serve_now(config, dir)
}

fn serve_now(config: &Config, dir: &Path) -> anyhow::Result<Serving> {
    let store = config.store_dir()?;
    check(store, dir)?;
    let lower = open_dir(dir)?;
    let mut client = Client::start(store)?;
    let device = mount::mount_over(dir)?;
    let transport = config.transport.value;
    let request = Request::Mount { root: dir.as_os_str().as_bytes().to_vec(), private: false, transport };
    let served = client.hand_over(store, &request, &[device.as_fd(), lower.as_fd()]);
    // From here on nobody but the daemon holds the device: when it dies, so does the mount, and nobody waits.
    drop(device);
    if let Err(error) = served {
        let _ = mount::unmount(dir, true);
        return Err(error);
    }
    let dev = std::fs::metadata(dir).with_context(|| format!("{} does not answer", dir.display()))?.dev();
    let request = Request::Mounted { root: dir.as_os_str().as_bytes().to_vec(), dev };
    client.do_it(&request, &[])?;
    let status = mounts_of(&client)?;
    let beneath =
        standing_beneath(dir, &lower).into_iter().filter(|process| process.pid.cast_unsigned() != status.pid).collect();
    let views = status.mounts.into_iter().find(|mount| mount.dev == dev);
    Ok(Serving { views: views.with_context(|| format!("{} went away at once", dir.display()))?, beneath })
}

/// Refuses what cannot work, and clears away what a dead daemon left.
fn check(store: &Path, dir: &Path) -> anyhow::Result<()> {
    ensure!(dir.parent().is_some(), "the whole file system cannot be mounted over itself; choose a project");
    // Before it is made, for then it would be made in there.
    let exists =
        store.ancestors().find_map(|above| Some((above.canonicalize().ok()?, store.strip_prefix(above).ok()?)));
    let real = exists.map_or_else(|| store.to_owned(), |(above, rest)| above.join(rest));
    ensure!(
        !real.starts_with(dir),
        "the cache {} lies in {}, and cannot be served from itself; set cache_dir or WINK_CACHE_DIR to another place",
        real.display(),
        dir.display()
    );
    std::fs::create_dir_all(store).with_context(|| format!("cannot make the cache {}", store.display()))?;
    for mounted in mounts()? {
        if mounted.dir == dir && is_dead(dir) {
            mount::unmount(dir, true)?;
        } else if mounted.dir == dir {
            bail!("{} is mounted already", dir.display());
        } else if dir.starts_with(&mounted.dir) {
            bail!("{} lies in {}, which is mounted", dir.display(), mounted.dir.display());
        } else if mounted.dir.starts_with(dir) {
            bail!("{} is mounted and lies in {}; unmount it first", mounted.dir.display(), dir.display());
        }
    }
    Ok(())
}

fn open_dir(dir: &Path) -> anyhow::Result<OwnedFd> {
    mount::open_beneath(dir).with_context(|| format!("cannot open {}", dir.display()))
}

/// Mounts in a namespace of its own, for one command.
fn privately(config: &Config, dir: PathBuf, command: &[OsString]) -> anyhow::Result<i32> {
    let (store, transport) = (config.store_dir()?, config.transport.value);
    let shown_at = dir.clone();
    check(store, &dir)?;
    let lower = open_dir(&dir)?;
    let mut client = Client::start(store)?;
    let cwd = std::env::current_dir()?;
    let view = enter::View {
        mountpoint: dir.clone(),
        scope: Scope::Workspace(dir.clone()),
        cwd: if cwd.starts_with(&dir) { cwd } else { dir.clone() },
        options: "default_permissions".to_owned(),
        asked_at: None,
    };
    let (inside, door) = enter::prepare(&view)?;
    let (program, args) = command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(args);
    let root = dir.as_os_str().as_bytes().to_vec();
    let store_dir = store.to_owned();
    let welcome = std::thread::spawn(move || -> anyhow::Result<()> {
        let device = door.receive(ENTER_TIMEOUT)?;
        let request = Request::Mount { root: root.clone(), private: true, transport };
        client.hand_over(&store_dir, &request, &[device.as_fd(), lower.as_fd()])?;
        drop(device);
        let top = door.entered()?;
        let dev = std::fs::File::from(top).metadata()?.dev();
        client.do_it(&Request::Mounted { root, dev }, &[]).map(drop)
    });
    let ended = enter::run_inside(inside, command);
    welcome.join().map_err(|_| anyhow::anyhow!("the thread that mounts stopped"))??;
    let refused = |error: std::io::Error| {
        crate::complain(&format!("cannot run {}: {error}", program.to_string_lossy()));
        if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
    };
    let code = ended.unwrap_or_else(refused);
    // Until the daemon has let go, the layer cannot be made real.
    settle(store, &shown_at)?;
    if let (left @ 1.., _) = dormant(store, &shown_at)? {
        crate::complain(&format!("{}: {}", shown_at.display(), out_of_sight(left)));
    }
    Ok(code)
}

/// Unmounts.
pub fn unmount(args: &UnmountArgs) -> anyhow::Result<String> {
    let dir = match &args.dir {
        // A dead mount has no canonical path.
        Some(dir) => dir.canonicalize().or_else(|_| std::path::absolute(dir))?,
        None => std::env::current_dir()?,
    };
    let mounted = mounts()?.into_iter().filter(|mounted| dir.starts_with(&mounted.dir));
    let mounted = mounted.max_by_key(|mounted| mounted.dir.as_os_str().len());
    let mounted = mounted.with_context(|| format!("{} is not mounted", dir.display()))?;
    ensure!(args.dir.is_none() || mounted.dir == dir, "{} is not mounted; {} is", dir.display(), mounted.dir.display());
    let dir = mounted.dir;
    let store = store_for(&dir)?;
    let made = match args.materialize {
        true => {
            let request = Request::Materialize { root: dir.as_os_str().as_bytes().to_vec(), path: Vec::new() };
            let client = Client::running(&store)?.with_context(|| not_served(&store, &dir))?;
            Some(waiting(MAKING_REAL, || client.do_it(&request, &[]))?)
        }
        false => None,
    };
    // This process is in the way itself if it was started there.
    let _ = std::env::set_current_dir("/");
    let began = Instant::now();
    let users = || {
        let mut users = users(mounted.dev);
        users.retain(|process| process.pid.cast_unsigned() != std::process::id());
        users
    };
    let unmounted = loop {
        match mount::unmount(&dir, is_dead(&dir)) {
            // Who has just ended may still hold it for a moment.
            Err(UnmountError::Busy { .. }) if began.elapsed() < NOTICE_TIMEOUT && users().is_empty() => {
                std::thread::sleep(NOTICE_POLL);
            }
            done => break done,
        }
    };
    match unmounted {
        Ok(()) => {}
        Err(UnmountError::Busy { .. }) => {
            let users = users();
            let who = if users.is_empty() { "processes that this user may not see".to_owned() } else { named(&users) };
            bail!(
                "{} is in use by {who}; end them or let them leave it (`cd /` in a shell), then unmount again",
                dir.display()
            );
        }
        Err(error) => return Err(error.into()),
    }
    settle(&store, &dir)?;
    let left = dormant(&store, &dir)?;
    if args.json {
        let dir = dir.to_string_lossy();
        return Ok(format!("{}\n", serde_json::json!({ "dir": dir, "materialized": made, "view_files": left.0 })));
    }
    let made = made.map(|count| format!("; {}", made_real(count))).unwrap_or_default();
    let left = if left.0 > 0 { format!("; {}", out_of_sight(left.0)) } else { String::new() };
    Ok(format!("{} is unmounted{made}{left}\n", dir.display()))
}

/// Waits until the daemon has noticed that a mount has gone.
fn settle(store: &Path, dir: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let dir = dir.to_string_lossy();
    while served(store)?.iter().any(|mount| mount.dir == dir) && began.elapsed() <= NOTICE_TIMEOUT {
        std::thread::sleep(NOTICE_POLL);
    }
    Ok(())
}

/// Files and bytes of a layer that is not mounted.
fn dormant(store: &Path, dir: &Path) -> anyhow::Result<(u64, u64)> {
    let store = Arc::new(Store::open(store)?);
    let steps = store.read_layer(dir.as_os_str().as_bytes())?;
    let layer = replay(&steps, &StoreShelf::reader(store.clone()), |_| Ok(()))?;
    Ok(layer.count())
}

/// Makes views real, mounted or not.
pub fn materialize(args: &MaterializeArgs) -> anyhow::Result<String> {
    let here = [PathBuf::from(".")];
    let paths = if args.paths.is_empty() { &here[..] } else { &args.paths };
    let mut made = 0;
    for path in paths {
        let absolute = absolute(path)?;
        made += materialize_one(&absolute).with_context(|| format!("cannot make {} real", path.display()))?;
    }
    Ok(match args.json {
        true => format!("{}\n", serde_json::json!({ "materialized": made })),
        false => format!("{}\n", made_real(made)),
    })
}

/// The absolute path of something that may be a symbolic link, or not be there at all while its layer is not mounted.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    Ok(match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) if path.file_name().is_some() => {
            parent.canonicalize().unwrap_or_else(|_| parent.to_owned()).join(name)
        }
        _ => whole.canonicalize().unwrap_or(whole),
    })
}

fn materialize_one(path: &Path) -> anyhow::Result<u64> {
    let made = make_real(path)?;
    ensure!(made > 0 || path.symlink_metadata().is_ok(), "there is nothing of that name");
    Ok(made)
}

/// By the daemon where the path is mounted, else here.
fn make_real(path: &Path) -> anyhow::Result<u64> {
    make_real_in(&store_for(path)?, path)
}

/// The same with the layers of this cache.
pub fn make_real_in(store_dir: &Path, path: &Path) -> anyhow::Result<u64> {
    let below = |root: &Path| path.strip_prefix(root).ok().map(|path| path.as_os_str().as_bytes().to_vec());
    for mounted in served(store_dir)? {
        if let Some(path) = below(Path::new(&mounted.dir)) {
            let request = Request::Materialize { root: mounted.dir.into_bytes(), path };
            let client = Client::connect(store_dir)?;
            return waiting(MAKING_REAL, || client.do_it(&request, &[]));
        }
    }
    if let Some(dead) = mounts()?.into_iter().find(|mounted| path.starts_with(&mounted.dir) && is_dead(&mounted.dir)) {
        bail!(not_served(store_dir, &dead.dir));
    }
    let store = Arc::new(Store::open(store_dir)?);
    for root in store.layer_roots()? {
        let dir = crate::engine::tree::os(&root);
        let Some(path) = below(dir) else { continue };
        let (log, steps) = store.open_layer(&root)?;
        let shelf = Arc::new(StoreShelf::writer(store.clone(), log));
        let layer = replay(&steps, &shelf, |lost| anyhow::bail!("{lost}"))?;
        let mount = Mount { root: dir.to_owned(), lower: open_dir(dir)? };
        let layered = mount.writable(shelf, layer)?;
        return Ok(waiting(MAKING_REAL, || layered.materialize(&path)).map_err(crate::mounted::error)?);
    }
    bail!("it lies in no directory that was ever mounted with the cache {}", store_dir.display())
}

/// What is mounted, and what was.
pub fn status(json: bool) -> anyhow::Result<String> {
    let store = store_for(&std::env::current_dir()?)?;
    let mounted = served(&store)?;
    let (dead, others): (Vec<_>, Vec<_>) = mounts()?
        .into_iter()
        .filter(|there| !mounted.iter().any(|mounted| mounted.dev == there.dev))
        .map(|there| there.dir)
        .partition(|dir| is_dead(dir));
    let mut asleep = Vec::new();
    if store.is_dir() {
        for root in Store::open(&store)?.layer_roots()? {
            let dir = crate::engine::tree::os(&root);
            if !mounted.iter().any(|mounted| Path::new(&mounted.dir) == dir) && !dead.iter().any(|dead| dead == dir) {
                let (files, bytes) = dormant(&store, dir)?;
                if files > 0 {
                    asleep.push((dir.to_owned(), files, bytes));
                }
            }
        }
    }
    if json {
        let asleep: Vec<_> = asleep
            .iter()
            .map(|(dir, files, bytes)| {
                serde_json::json!({ "dir": dir.to_string_lossy(), "view_files": files, "view_bytes": bytes })
            })
            .collect();
        let dead: Vec<_> = dead.iter().map(|dir| dir.to_string_lossy()).collect();
        let others: Vec<_> = others.iter().map(|dir| dir.to_string_lossy()).collect();
        let said = serde_json::json!({
            "mounts": mounted, "unmounted_layers": asleep, "dead": dead, "of_other_caches": others
        });
        return Ok(format!("{said:#}\n"));
    }
    let mut lines: Vec<String> =
        mounted.iter().map(|mount| format!("{} is mounted{}", mount.dir, shown(mount))).collect();
    lines.extend(others.iter().map(|dir| format!("{} is mounted by a daemon of another cache", dir.display())));
    lines.extend(dead.iter().map(|dir| format!("{} lost its daemon; `wink mount {0}` brings it back", dir.display())));
    lines.extend(
        asleep.iter().map(|(dir, files, _)| format!("{} is not mounted; {}", dir.display(), out_of_sight(*files))),
    );
    if lines.is_empty() {
        lines.push("nothing is mounted".to_owned());
    }
    Ok(lines.join("\n") + "\n")
}

/// Whether `path` (absolute) lies in a mount whose daemon has died.
pub fn is_within_dead(path: &Path) -> bool {
    mounts().is_ok_and(|mounts| mounts.iter().any(|mounted| path.starts_with(&mounted.dir) && is_dead(&mounted.dir)))
}

/// Brings a mount back whose daemon has died, if `path` lies in one; the current directory is entered again.
pub fn revive(path: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(path)?;
    let mut mounts = mounts()?.into_iter();
    let dead = mounts.find(|mounted| absolute.starts_with(&mounted.dir) && is_dead(&mounted.dir));
    let Some(dead) = dead else { return Ok(()) };
    let cwd = std::env::current_dir();
    let _turn = turn(&dead.dir);
    // Somebody else may have brought it back meanwhile.
    if is_dead(&dead.dir) {
        // Its own configuration can be read only when it is out of the way.
        mount::unmount(&dead.dir, true)?;
        let config = config_for(&dead.dir)?;
        serve_now(&config, &dead.dir).with_context(|| format!("cannot bring {} back", dead.dir.display()))?;
        crate::complain(&format!("{} had lost its daemon and is mounted again", dead.dir.display()));
    }
    match cwd {
        Ok(cwd) if cwd.starts_with(&dead.dir) => Ok(std::env::set_current_dir(cwd)?),
        _ => Ok(()),
    }
}

/// The mount that a workspace lies in, if the daemon of this store serves it.
pub fn find(store: &Path, workspace: &Path) -> anyhow::Result<Option<Mount>> {
    let Ok(data) = std::fs::metadata(workspace) else { return Ok(None) };
    let Some(client) = Client::running(store)? else { return Ok(None) };
    match client.ask(&Request::Find { dev: data.dev() }, &[]) {
        Ok((Reply::Found { root }, descriptors)) => {
            let lower = descriptors.into_iter().next().context("the daemon sent no directory")?;
            let root = crate::engine::tree::os(&root).to_owned();
            // Seen at another path, through a bind mount, it is a tree like any other: paths do not tell what lies in it.
            Ok(workspace.starts_with(&root).then_some(Mount { root, lower }))
        }
        Err(error) if !error.is::<Ended>() => Err(error),
        _ => Ok(None),
    }
}

fn mounts_of(client: &Client) -> anyhow::Result<Status> {
    match client.ask(&Request::Status, &[])?.0 {
        Reply::Status(status) => Ok(status),
        Reply::Failed(reason) => bail!("{reason}"),
        _ => bail!("the daemon answered something else; run `wink daemon stop`"),
    }
}

/// What a daemon serves; none serves nothing, nor does one that is about to end.
fn served(store: &Path) -> anyhow::Result<Vec<MountStatus>> {
    Ok(daemon_status(store)?.map(|status| status.mounts).unwrap_or_default())
}

/// `wink daemon status`.
pub fn daemon_status(store: &Path) -> anyhow::Result<Option<Status>> {
    let Some(client) = Client::running(store)? else { return Ok(None) };
    match mounts_of(&client) {
        Err(error) if error.is::<Ended>() => Ok(None),
        status => status.map(Some),
    }
}

/// The store of the workspace that a path lies in.
fn store_for(path: &Path) -> anyhow::Result<PathBuf> {
    Ok(config_for(path)?.store_dir()?.to_owned())
}

/// The configuration there.
fn config_for(path: &Path) -> anyhow::Result<Config> {
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    let near = path.ancestors().find(|near| near.is_dir()).unwrap_or(path);
    let root = workspace::find(near, home.as_deref())?.root;
    Config::load(&root, std::env::vars_os())
}

fn shown(mount: &MountStatus) -> String {
    let private = if mount.private { " for one command (--private)" } else { "" };
    let bytes = crate::report::human_bytes(mount.view_bytes);
    match mount.view_files {
        0 => private.to_owned(),
        1 => format!("{private}; 1 file in it is a view ({bytes})"),
        files => format!("{private}; {files} files in it are views ({bytes})"),
    }
}

fn made_real(views: u64) -> String {
    match views {
        0 => "there was no view to make real".to_owned(),
        1 => "1 view is a real file now".to_owned(),
        views => format!("{views} views are real files now"),
    }
}

fn out_of_sight(views: u64) -> String {
    let (are, they, files) =
        if views == 1 { ("view is", "it", "a real file") } else { ("views are", "them", "real files") };
    format!("{views} {are} out of sight until the next `wink mount` (`wink materialize` makes {they} {files})")
}

/// A mount without a daemon, or with one that this store knows nothing of.
fn not_served(store: &Path, dir: &Path) -> String {
    let (dir, store) = (dir.display(), store.display());
    format!(
        "no daemon of the cache {store} serves {dir}: if it has died, `wink mount {dir}` brings it back; if it belongs to another \
         cache, set WINK_CACHE_DIR to that"
    )
}

fn named(processes: &[Process]) -> String {
    let names: Vec<String> =
        processes.iter().take(NAMED_MAX).map(|process| format!("{} ({})", process.name, process.pid)).collect();
    let more = processes.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// What kind of failure a dead mount gives, for tests.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(revive(dir.path()).is_ok());
        assert!(matches!(find(dir.path(), dir.path()), Ok(None)), "no daemon, no mount");
    }
}
