//! The stored form of a layer's log: records of steps, each of which vouches for itself and for its place.
//!
//! ```text
//! log     = record*
//! record  = length:4 inverted:4 steps check:32   length of `steps` in bytes, low byte first, and the same with every bit flipped
//! check   = digest of (the check before, steps)  before the first record stands the digest of the mount's root
//! steps   = "wY1" steps:count step*
//! step    = a at:string pack:digest first_ns step_ns · p path:string tag … mtime_ns · r path:string · m from:string to:string
//! ```
//! `tag …` is that of a manifest node (f, l, d); times are numbers, negative ones as their two's complement. Invariants: since
//! the checks form a chain, what is read is always a beginning of what was written, of this very layer. An end that is too
//! short is a record that somebody died over (or is writing now); everything else that does not fit is damage. The length is
//! there twice so that these two can be told apart.

use super::Step;
use crate::codec::{DecodeError, PATH_BYTES_MAX, Reader, Writer};
use crate::digest::Digest;
use crate::manifest::{Output, check_path};

const HEADER: &[u8] = b"wY1";

/// The smallest step: a letter and an empty path.
const STEP_BYTES_MIN: usize = 2;

/// The two lengths.
const HEAD_BYTES: usize = 8;

const CHECK_BYTES: usize = 32;

/// What a log says, as far as it can be trusted.
pub(crate) struct Log {
    /// All steps, in order.
    pub steps: Vec<Step>,
    /// Of how many records.
    pub records: u64,
    /// How many bytes these records have.
    pub length: usize,
    /// The last check, on which the next record's builds.
    pub last_check: Digest,
    /// What follows them is damage, not just an end that was never finished.
    pub damaged: bool,
}

/// What the end of a log turns out to be.
enum Next<'a> {
    Record { steps: Vec<Step>, check: Digest, rest: &'a [u8] },
    Torn,
    Damaged,
}

/// One record, and its check; refuses steps that could not be read back.
pub(crate) fn write_record(before: &Digest, steps: &[Step]) -> Result<(Vec<u8>, Digest), DecodeError> {
    steps.iter().try_for_each(check_step)?;
    let mut out = Writer::new(HEADER);
    out.count(steps.len());
    for step in steps {
        write_step(&mut out, step);
    }
    let payload = out.finish();
    if u32::try_from(payload.len()).is_err() {
        return Err(DecodeError::TooLarge);
    }
    Ok(frame(before, &payload))
}

/// A record around encoded steps, which fit, and its check.
pub(crate) fn frame(before: &Digest, payload: &[u8]) -> (Vec<u8>, Digest) {
    let length = payload.len() as u32;
    let check = chain(before, payload);
    ([&length.to_le_bytes()[..], &(!length).to_le_bytes(), payload, &check.0].concat(), check)
}

/// Reads a log of the layer that is named `layer`.
pub(crate) fn read_log(bytes: &[u8], layer: &Digest) -> Log {
    let mut log = Log { steps: Vec::new(), records: 0, length: 0, last_check: *layer, damaged: false };
    let mut left = bytes;
    loop {
        match read_record(left, &log.last_check) {
            Next::Record { steps, check, rest } => {
                log.steps.extend(steps);
                log.records += 1;
                log.last_check = check;
                left = rest;
            }
            end => {
                log.length = bytes.len() - left.len();
                log.damaged = matches!(end, Next::Damaged);
                return log;
            }
        }
    }
}

fn read_record<'a>(bytes: &'a [u8], before: &Digest) -> Next<'a> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Next::Torn };
    let [l0, l1, l2, l3, inverted @ ..] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length != !u32::from_le_bytes(inverted) {
        return Next::Damaged;
    }
    let Some((payload, rest)) = rest.split_at_checked(length as usize) else { return Next::Torn };
    let Some((check, rest)) = rest.split_first_chunk::<CHECK_BYTES>() else { return Next::Torn };
    let check = Digest(*check);
    if check != chain(before, payload) {
        return Next::Damaged;
    }
    match read_steps(payload) {
        Ok(steps) => Next::Record { steps, check, rest },
        Err(_) => Next::Damaged,
    }
}

fn chain(before: &Digest, payload: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before.0);
    hasher.update(payload);
    hasher.finalize().into()
}

fn write_step(out: &mut Writer, step: &Step) {
    match step {
        Step::Attach { at, pack, first_ns, step_ns } => {
            out.byte(b'a');
            out.string(at);
            out.digest(pack);
            out.number(*first_ns as u64);
            out.number(*step_ns as u64);
        }
        Step::Put { path, output, mtime_ns } => {
            out.byte(b'p');
            out.string(path);
            out.byte(output.letter());
            output.write(out);
            out.number(*mtime_ns as u64);
        }
        Step::Remove { path } => {
            out.byte(b'r');
            out.string(path);
        }
        Step::Move { from, to } => {
            out.byte(b'm');
            out.string(from);
            out.string(to);
        }
    }
}

fn read_steps(payload: &[u8]) -> Result<Vec<Step>, DecodeError> {
    let mut input = Reader::new(payload, HEADER)?;
    // No more than the bytes can hold: a record is read whole in any case.
    let count = input.count(STEP_BYTES_MIN, usize::MAX)?;
    let steps = (0..count).map(|_| read_step(&mut input)).collect::<Result<_, _>>()?;
    input.finish()?;
    Ok(steps)
}

fn read_step(input: &mut Reader<'_>) -> Result<Step, DecodeError> {
    let path = |input: &mut Reader<'_>| input.string(PATH_BYTES_MAX).map(<[u8]>::to_vec);
    let step = match input.byte()? {
        b'a' => Step::Attach {
            at: path(input)?,
            pack: input.digest()?,
            first_ns: input.number()? as i64,
            step_ns: input.number()? as i64,
        },
        b'p' => {
            let path = path(input)?;
            let letter = input.byte()?;
            Step::Put { path, output: Output::read(input, letter)?, mtime_ns: input.number()? as i64 }
        }
        b'r' => Step::Remove { path: path(input)? },
        b'm' => Step::Move { from: path(input)?, to: path(input)? },
        _ => return Err(DecodeError::Kind),
    };
    check_step(&step)?;
    Ok(step)
}

/// Whether a step names plain paths and possible things.
fn check_step(step: &Step) -> Result<(), DecodeError> {
    match step {
        Step::Attach { at: path, .. } | Step::Remove { path } if path.is_empty() => Ok(()),
        Step::Attach { at, .. } => check_path(at),
        Step::Put { output: Output::Removed, .. } => Err(DecodeError::Kind),
        Step::Put { path, output, .. } => check_path(path).and_then(|()| output.check()),
        Step::Remove { path } => check_path(path),
        Step::Move { from, to } => check_path(from).and_then(|()| check_path(to)),
    }
}
