//! Tests of the control socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::*;

const SOON: Option<Duration> = Some(Duration::from_millis(10));
const LONG: Option<Duration> = Some(Duration::from_secs(20));

#[test]
fn messages_carry_bytes_and_open_files_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d".repeat(200)).join("socket");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let listener = listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let served = std::thread::spawn(move || {
        let peer = listener.accept().unwrap();
        while let Some((bytes, descriptors)) = peer.receive(LONG).unwrap() {
            let mut text = Vec::new();
            for descriptor in descriptors {
                assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
                File::from(descriptor).read_to_end(&mut text).unwrap();
            }
            text.extend(bytes);
            peer.send(&text, &[]).unwrap();
        }
    });
    let peer = connect(&path).unwrap();
    let files: Vec<_> = (0..DESCRIPTORS_MAX)
        .map(|number| {
            let path = dir.path().join(number.to_string());
            File::create(&path).unwrap().write_all(format!("file {number} ").as_bytes()).unwrap();
            File::open(path).unwrap()
        })
        .collect();
    let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    peer.send(b"message", &descriptors).unwrap();
    assert_eq!(peer.receive(LONG).unwrap().unwrap().0, b"file 0 file 1 file 2 file 3 message");
    // Longer than any socket buffer, and nothing at all.
    for message in [vec![7; 5 << 20], Vec::new()] {
        peer.send(&message, &[]).unwrap();
        assert!(peer.receive(LONG).unwrap().unwrap().0 == message);
    }
    assert_eq!(peer.receive(SOON).unwrap_err().kind(), io::ErrorKind::TimedOut);
    peer.send(b"again", &[]).unwrap();
    assert_eq!(peer.receive(LONG).unwrap().unwrap().0, b"again", "a time-out does no harm");
    drop(peer);
    served.join().unwrap();
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let first = listen(&path).unwrap();
    assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let second = listen(&path).unwrap();
    let peer = connect(&path).unwrap();
    second.accept().unwrap().send(b"second", &[]).unwrap();
    assert_eq!(peer.receive(LONG).unwrap().unwrap().0, b"second");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    std::fs::write(&path, "precious").unwrap();
    assert!(listen(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn too_much_and_too_little_are_errors() {
    let (one, other) = Peer::pair().unwrap();
    assert_eq!(one.send(&vec![0; MESSAGE_BYTES_MAX + 1], &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(one.send(b"", &[one.0.as_fd(); DESCRIPTORS_MAX + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    rustix::io::write(&one.0, &[3, 0, 0, 0, 1]).unwrap();
    assert_eq!(other.receive(SOON).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let (one, other) = Peer::pair().unwrap();
    rustix::io::write(&one.0, &[0xff; 4]).unwrap();
    assert_eq!(other.receive(LONG).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let (one, other) = Peer::pair().unwrap();
    drop(one);
    assert!(other.receive(LONG).unwrap().is_none());
}

#[test]
fn a_flood_of_descriptors_is_an_error() {
    let (one, other) = Peer::pair().unwrap();
    let null = File::open("/dev/null").unwrap();
    rustix::io::write(&one.0, &100_u32.to_le_bytes()).unwrap();
    for _ in 0..3 {
        // Each piece alone is within the limit.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let some = [null.as_fd(); DESCRIPTORS_MAX];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&some)));
        rustix::net::sendmsg(&one.0, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }
    assert_eq!(other.receive(LONG).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn other_users_are_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let dir = tempfile::Builder::new().prefix("wink-control-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = dir.path().join("socket");
    let listener = listen(&path).unwrap();
    // The mode alone keeps others out; here it is opened, so that it is the peer's identity that counts.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let stranger = std::thread::spawn({
        let path = path.clone();
        move || {
            // The identity of this thread alone.
            let nobody = Some(rustix::process::Uid::from_raw(65534));
            rustix::thread::set_thread_res_uid(None, nobody, None).unwrap();
            connect(&path).unwrap_err().kind()
        }
    });
    assert_eq!(stranger.join().unwrap(), io::ErrorKind::PermissionDenied, "nor does it trust this user's socket");
    let accepted = std::thread::spawn(move || listener.accept().unwrap());
    let peer = connect(&path).unwrap();
    accepted.join().unwrap().send(b"own", &[]).unwrap();
    assert_eq!(peer.receive(LONG).unwrap().unwrap().0, b"own");
}
