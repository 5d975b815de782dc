//! Taking a request apart.
//!
//! Both transports hand over the same two pieces: the arguments of fixed size, and behind them names and data. Nothing in them is trusted to
//! be there: what is too short is an invalid request.

use rustix::io::Errno;
use zerocopy::FromBytes;

use super::wire::{ForgetOne, InHeader, Opcode};
use wink_fs::vfs::{Caller, NodeId};

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub header: InHeader,
    fixed: &'a [u8],
    rest: &'a [u8],
}

/// The head of a message that was read from the device, and the two pieces behind it.
pub(super) fn split(message: &[u8]) -> Option<(InHeader, &[u8], &[u8])> {
    let (header, body) = InHeader::read_from_prefix(message).ok()?;
    let fixed = Opcode::from_number(header.opcode).map_or(0, Opcode::fixed_bytes);
    let (fixed, rest) = body.split_at(fixed.min(body.len()));
    (header.len as usize == message.len()).then_some((header, fixed, rest))
}

impl<'a> Request<'a> {
    /// From its pieces.
    pub fn new(header: InHeader, fixed: &'a [u8], rest: &'a [u8]) -> Request<'a> {
        Request { header, fixed, rest }
    }

    /// Who asks.
    pub fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid }
    }

    /// What it is about.
    pub fn node(&self) -> NodeId {
        NodeId(self.header.nodeid)
    }

    /// The arguments of fixed size.
    pub fn args<T: FromBytes>(&self) -> Result<T, Errno> {
        T::read_from_prefix(self.fixed).map(|(args, _)| args).map_err(|_| Errno::INVAL)
    }

    /// The name behind them.
    pub fn name(&self) -> Result<&'a [u8], Errno> {
        Ok(self.name_and_rest()?.0)
    }

    /// Two names.
    pub fn names(&self) -> Result<(&'a [u8], &'a [u8]), Errno> {
        let (first, rest) = self.name_and_rest()?;
        Ok((first, to_zero(rest).ok_or(Errno::INVAL)?.0))
    }

    /// A name, and all behind it.
    pub fn name_and_rest(&self) -> Result<(&'a [u8], &'a [u8]), Errno> {
        to_zero(self.rest).ok_or(Errno::INVAL)
    }

    /// `size` bytes of data.
    pub fn data(&self, size: u32) -> Result<&'a [u8], Errno> {
        self.rest.get(..size as usize).ok_or(Errno::INVAL)
    }

    /// What is to be forgotten, node by node.
    pub fn forgets(&self) -> impl Iterator<Item = ForgetOne> {
        self.rest.chunks_exact(size_of::<ForgetOne>()).filter_map(|one| ForgetOne::read_from_bytes(one).ok())
    }
}

fn to_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::super::wire::{RenameIn, SetattrIn};
    use super::*;

    fn message(opcode: Opcode, body: &[u8]) -> Vec<u8> {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode: opcode as u32, ..InHeader::new_zeroed() };
        [header.as_bytes(), body].concat()
    }

    #[track_caller]
    fn request(message: &[u8]) -> Request<'_> {
        let (header, fixed, rest) = split(message).unwrap();
        Request::new(header, fixed, rest)
    }

    #[test]
    fn pieces_are_found() {
        let message = message(Opcode::Rename, &[&7u64.to_ne_bytes()[..], b"old\0new\0"].concat());
        let request = request(&message);
        assert_eq!(request.args::<RenameIn>().unwrap().newdir, 7);
        assert_eq!(request.names(), Ok((&b"old"[..], &b"new"[..])));
    }

    #[test]
    fn what_is_cut_short_is_invalid() {
        let setattr = message(Opcode::Setattr, &[0; 10]);
        assert_eq!(request(&setattr).args::<SetattrIn>().err(), Some(Errno::INVAL));
        let symlink = message(Opcode::Symlink, b"name\0target");
        assert_eq!((request(&symlink).name(), request(&symlink).names()), (Ok(&b"name"[..]), Err(Errno::INVAL)));
        assert_eq!(request(&message(Opcode::Unlink, b"")).name(), Err(Errno::INVAL));
        let write = message(Opcode::Write, &[0; 45]);
        assert_eq!((request(&write).data(5), request(&write).data(6)), (Ok(&[0; 5][..]), Err(Errno::INVAL)));
        assert!(split(&write[..write.len() - 1]).is_none() && split(&write[..39]).is_none());
    }
}
