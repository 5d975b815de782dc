//! How the parts of a record are spelled, and how its identity is computed.
//!
//! ```text
//! captured = "wC1" pieces:count (stream:0|1 bytes:string)*
//! times    = "wN1" times:count number*
//! argv     = "wA1" arguments:count string*
//! id       = digest of "wR1" task_key fingerprint manifest digest(captured) exit_code bindings depth
//! seal     = digest of everything in a row that never changes: catches a flipped bit or a swapped page of the index
//! ```

use super::{Captured, Record, RecordHead, RecordId, Stream};
use crate::codec::{DecodeError, PATHS_MAX, Reader, Writer};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::trace::Trace;

const CAPTURED_HEADER: &[u8] = b"wC1";
const TIMES_HEADER: &[u8] = b"wN1";
const ARGV_HEADER: &[u8] = b"wA1";

/// How many pieces captured output may have: one per read of a pipe, so this is beyond any run that ends.
const PIECES_MAX: usize = 64 * 1024 * 1024;

/// How many arguments a command may have; Linux allows six megabytes of them, each at least two bytes.
const ARGUMENTS_MAX: usize = 4 * 1024 * 1024;

impl Captured {
    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(CAPTURED_HEADER);
        out.count(self.pieces.len());
        for (stream, bytes) in &self.pieces {
            out.byte(match stream {
                Stream::Stdout => 0,
                Stream::Stderr => 1,
            });
            out.string(bytes);
        }
        out.finish()
    }

    /// Reads them back.
    pub fn decode(bytes: &[u8]) -> Result<Captured, DecodeError> {
        let mut input = Reader::new(bytes, CAPTURED_HEADER)?;
        let mut captured = Captured::default();
        for _ in 0..input.count(2, PIECES_MAX)? {
            let stream = match input.byte()? {
                0 => Stream::Stdout,
                1 => Stream::Stderr,
                _ => return Err(DecodeError::Kind),
            };
            captured.pieces.push((stream, input.string(usize::MAX)?.to_vec()));
        }
        input.finish()?;
        Ok(captured)
    }
}

pub(crate) fn encode_times(times: &[u64]) -> Vec<u8> {
    let mut out = Writer::new(TIMES_HEADER);
    out.count(times.len());
    times.iter().for_each(|&time| out.number(time));
    out.finish()
}

pub(crate) fn decode_times(bytes: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let mut input = Reader::new(bytes, TIMES_HEADER)?;
    let count = input.count(1, PATHS_MAX)?;
    let times = (0..count).map(|_| input.number()).collect::<Result<_, _>>()?;
    input.finish()?;
    Ok(times)
}

pub(crate) fn encode_argv(argv: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Writer::new(ARGV_HEADER);
    out.count(argv.len());
    argv.iter().for_each(|argument| out.string(argument));
    out.finish()
}

pub(crate) fn decode_argv(bytes: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut input = Reader::new(bytes, ARGV_HEADER)?;
    let count = input.count(1, ARGUMENTS_MAX)?;
    let argv = (0..count).map(|_| input.string(usize::MAX).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
    input.finish()?;
    Ok(argv)
}

impl RecordHead {
    /// The identity that follows from the other fields and the digest of the captured output.
    pub(crate) fn identity(&self, captured: &Digest) -> RecordId {
        let mut out = Writer::new(b"wR1");
        out.digest(&self.task_key.0);
        out.digest(&self.fingerprint);
        out.digest(&self.manifest);
        out.digest(captured);
        out.number(u64::from(self.exit_code as u32));
        out.optional(self.bound_workspace.as_deref());
        out.optional(self.bound_home.as_deref());
        // `Above` means another place at another depth, so the same facts are then other facts.
        out.number(u64::from(self.depth));
        RecordId(Digest::of(&out.finish()))
    }

    /// The digest over every field and over what belongs to the head: the check of a row.
    pub(crate) fn seal(&self, captured: &Digest, times: &[u8], argv: &[u8]) -> Digest {
        self.seal_with(captured, &details_digest(times, argv))
    }

    /// As [`RecordHead::seal`], for a reader that has not loaded the long columns.
    pub(crate) fn seal_with(&self, captured: &Digest, details: &Digest) -> Digest {
        let mut out = Writer::new(b"wS1");
        out.digest(&self.id.0);
        out.digest(&self.identity(captured).0);
        out.digest(&self.own_key.0);
        out.byte(u8::from(self.usable));
        out.number(self.command_ms);
        out.number(self.created_ms);
        out.number(self.output_bytes);
        out.digest(captured);
        out.digest(details);
        Digest::of(&out.finish())
    }
}

/// The digest of the columns that only some readers need.
pub(crate) fn details_digest(times: &[u8], argv: &[u8]) -> Digest {
    let mut out = Writer::new(b"wD1");
    out.string(times);
    out.string(argv);
    Digest::of(&out.finish())
}

impl Record {
    /// Computes `fingerprint`, `manifest`, `output_bytes` and `id` of the head from the other parts.
    pub fn seal(&mut self) {
        self.head.fingerprint = self.trace.fingerprint();
        self.head.manifest = self.outputs.to_tree().root;
        self.head.output_bytes = self.outputs.output_bytes();
        self.head.id = self.head.identity(&Digest::of(&self.captured.encode()));
    }

    /// Whether the parts fit together and can be given back exactly. Asked before anything is written, as the decoders ask
    /// after reading: what cannot be read back is never stored.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let refuse = |detail: String| Err(StoreError::Unstorable { detail });
        if let Err(error) = self.outputs.check() {
            return refuse(format!("its outputs cannot be listed: {error}"));
        }
        if self.times.len() != self.outputs.entries.len() {
            return refuse(format!("{} times for {} outputs", self.times.len(), self.outputs.entries.len()));
        }
        match Trace::decode(&self.trace.encode()) {
            Ok(trace) if trace == self.trace => {}
            Ok(_) => return refuse("its inputs cannot be read back".to_owned()),
            Err(error) => return refuse(format!("its inputs cannot be listed: {error}")),
        }
        Ok(())
    }
}
