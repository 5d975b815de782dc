//! What the kernel says of mounts and processes (with names in it that anybody may have chosen), and what comes over the control socket.

use wink_platform::unix::decoders;

use crate::bytes::piece;

pub fn mounts(bytes: &[u8]) -> bool {
    let table = decoders::mount_table(bytes);
    // A line gives one mount at most, whatever names stand in it.
    assert!(table.len() <= bytes.split(|byte| *byte == b'\n').count());
    !table.is_empty()
}

pub fn mounts_seeds() -> Vec<Vec<u8>> {
    let ours =
        br"40 28 0:44 / /home/a\040b\134c rw,nosuid shared:1 master:2 - fuse.wink wink rw,user_id=1000,group_id=7"
            .to_vec();
    let disk = b"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro".to_vec();
    let feint = br"41 28 0:45 / /a\040-\040fuse.wink\012 rw - tmpfs tmpfs rw,user_id=0".to_vec();
    vec![[ours.clone(), disk, feint].join(&b'\n'), ours]
}

pub fn maps(bytes: &[u8]) -> bool {
    decoders::mapped_device(bytes).is_some()
}

pub fn maps_seeds() -> Vec<Vec<u8>> {
    vec![b"7f0a4c000000-7f0a4c021000 r-xp 00000000 fe:1a 131 /usr/lib/a b.so".to_vec()]
}

pub fn stat(bytes: &[u8]) -> bool {
    let found = (0..4).filter_map(|number| decoders::stat_field(bytes, number)).count();
    found == 4
}

pub fn stat_seeds() -> Vec<Vec<u8>> {
    vec![b"17 (a) S) b) S 1 17 17 0 -1 4194560 1 0".to_vec(), b"1 (init) S 0 1 1 0 -1 4194560".to_vec()]
}

/// Whatever is sent, what comes out are whole messages in order.
pub fn control(bytes: &[u8]) -> bool {
    let (messages, failed) = decoders::messages(bytes).unwrap();
    let mut whole = Vec::new();
    for message in &messages {
        whole.extend((message.len() as u32).to_le_bytes());
        whole.extend(message);
    }
    assert!(bytes.starts_with(&whole), "messages that were never sent");
    assert_eq!(failed.is_none(), whole.len() == bytes.len(), "what is left over is an error");
    !messages.is_empty() && failed.is_none()
}

pub fn control_seeds() -> Vec<Vec<u8>> {
    let message = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let two = [message("\"Status\""), message("{}")].concat();
    let cut = two[..two.len() - 1].to_vec();
    vec![two, cut, vec![0xff; 4], [&[0, 0, 0, 4][..], &piece(b"")].concat()]
}
