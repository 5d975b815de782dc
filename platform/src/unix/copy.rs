//! Copying the bytes of a file: shared blocks where the file system can, holes kept, and an ordinary copy as the last resort.
//!
//! Every function works by explicit offsets for the bytes; only `SEEK_DATA`/`SEEK_HOLE` move the source's position.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(test)]
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// One read of the fallback loop: large enough that the calls do not matter, small enough for a stack-like buffer.
const BUFFER_BYTES: usize = 256 * 1024;
/// The unit in which blocks are counted, whatever the file system's are.
const BLOCK_BYTES: u64 = 512;
/// The most one `copy_file_range` is asked for, so that a copy stays interruptible between calls.
const RANGE_BYTES: u64 = 1 << 30;

/// Makes the empty `to` share all blocks of `from`. `false` where these two files cannot.
pub(crate) fn reflink(from: impl AsFd, to: impl AsFd) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // EPERM, EACCES: filtered by a sandbox. ETXTBSY: swap files. All of these can still be copied.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM
            | Errno::ACCESS
            | Errno::TXTBSY
            | Errno::BADF,
        ) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the empty `to` hold the bytes of `from`, holes kept.
pub(crate) fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    let metadata = from.metadata()?;
    let size = metadata.len();
    // As many blocks as bytes: there are no holes to look for.
    let whole = metadata.blocks().saturating_mul(BLOCK_BYTES) >= size;
    let mut at = 0;
    while at < size {
        let data = match if whole { Ok(at) } else { rustix::fs::seek(from, SeekFrom::Data(at)) } {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            // A file system without holes: all of it is data.
            Err(_) => at,
        };
        if data >= size {
            break;
        }
        let end = match if whole { Ok(size) } else { rustix::fs::seek(from, SeekFrom::Hole(data)) } {
            Ok(hole) if hole > data => hole.min(size),
            _ => size,
        };
        let mut done = data;
        while done < end {
            match copy_range(from.as_fd(), done, to.as_fd(), done, end - done)? {
                0 => return Ok(()), // The source shrank meanwhile: what is there has been copied.
                copied => done += copied,
            }
        }
        at = end;
        if data < end && end == size {
            return Ok(());
        }
    }
    // A hole at the end (or an empty file): the copies alone did not reach that far.
    if to.metadata()?.len() < size {
        to.set_len(size)?;
    }
    Ok(())
}

/// Copies at most `length` bytes; returns how many, 0 only at the end of `from`.
pub(crate) fn copy_range(
    from: BorrowedFd<'_>,
    from_at: u64,
    to: BorrowedFd<'_>,
    to_at: u64,
    length: u64,
) -> io::Result<u64> {
    let mut read_at = from_at;
    let mut write_at = to_at;
    let wanted = length.min(RANGE_BYTES) as usize;
    loop {
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), wanted) {
            // Some kernels answer 0 for files whose size they do not know (procfs): reading decides.
            Ok(0) => break,
            Ok(copied) => return Ok(copied as u64),
            Err(Errno::INTR) => {}
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO | Errno::NOMEM)) => {
                return Err(errno.into());
            }
            // EXDEV, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, EBADF, ETXTBSY …: plain reading and writing has the last word.
            Err(_) => break,
        }
    }
    let mut buffer = vec![0; wanted.min(BUFFER_BYTES)];
    let read = read_full(from, &mut buffer, from_at)?;
    write_all(to, &buffer[..read], to_at)?;
    Ok(read as u64)
}

/// Reads until `buffer` is full or the file ends.
pub(crate) fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Whether two files hold the same bytes. For tests.
#[cfg(test)]
pub(crate) fn same_bytes(left: &File, right: &File) -> io::Result<bool> {
    let size = left.metadata()?.len();
    if size != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut two) = (vec![0; size as usize], vec![0; size as usize]);
    left.read_exact_at(&mut one, 0)?;
    right.read_exact_at(&mut two, 0)?;
    Ok(one == two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes() {
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(b"head", 0).unwrap();
        from.write_all_at(b"middle", 5 << 20).unwrap();
        from.set_len(9 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        copy_sparse(&from, &to).unwrap();
        assert!(same_bytes(&from, &to).unwrap());
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "the copy is sparse");
    }

    #[test]
    fn ranges_end_with_the_file() {
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(b"abcdef", 0).unwrap();
        let to = tempfile::tempfile().unwrap();
        assert_eq!(copy_range(from.as_fd(), 2, to.as_fd(), 0, 100).unwrap(), 4);
        assert_eq!(copy_range(from.as_fd(), 6, to.as_fd(), 4, 100).unwrap(), 0);
        assert_eq!(to.metadata().unwrap().len(), 4);
    }
}
