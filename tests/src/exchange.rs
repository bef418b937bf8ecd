//! What two ends of a stream do to be timed: one serves, the other asks.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result, bail};

const PIECE: usize = 64 * 1024;
const MIB: usize = 1 << 20;
const ECHO: u8 = b'e';
const TAKE: u8 = b't';
const GIVE: u8 = b'g';

/// Serves until the other end closes.
///
/// # Errors
/// Those of the stream.
pub fn serve(stream: &mut (impl Read + Write)) -> Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let mut request = [0; 1];
        match stream.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other.context("no request")?,
        }
        match request {
            [ECHO] => stream.write_all(&request).context("cannot echo")?,
            [TAKE] => {
                for _ in 0..MIB / PIECE {
                    stream.read_exact(&mut piece).context("cannot take")?;
                }
                stream.write_all(&request).context("cannot say that it is taken")?;
            }
            [GIVE] => {
                for _ in 0..MIB / PIECE {
                    stream.write_all(&piece).context("cannot give")?;
                }
            }
            other => bail!("unknown request {other:?}"),
        }
    }
}

/// What [`ask`] reads its meter before and after.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Bytes that go there and back, one after the other.
    pub rounds: u32,
    /// MiB in each direction.
    pub mib: u32,
}

/// Asks the server at the other end; returns what `meter`, which only grows, grew by for each of an operation.
///
/// # Errors
/// Those of the stream and of the meter.
pub fn ask(
    stream: &mut (impl Read + Write),
    amount: Amount,
    meter: impl Fn() -> Result<f64>,
) -> Result<Vec<(&'static str, f64)>> {
    let mut byte = [0];
    let mut piece = vec![0; PIECE];
    let mut results = Vec::new();
    stream.write_all(&[ECHO]).context("cannot ask")?;
    stream.read_exact(&mut byte).context("no echo")?;

    let start = meter()?;
    for _ in 0..amount.rounds {
        stream.write_all(&[ECHO]).context("cannot ask")?;
        stream.read_exact(&mut byte).context("no echo")?;
    }
    results.push(("a byte there and back", (meter()? - start) / f64::from(amount.rounds)));

    let start = meter()?;
    for _ in 0..amount.mib {
        stream.write_all(&[TAKE]).context("cannot ask")?;
        for _ in 0..MIB / PIECE {
            stream.write_all(&piece).context("cannot send")?;
        }
        stream.read_exact(&mut byte).context("not taken")?;
    }
    results.push(("a MiB to the guest", (meter()? - start) / f64::from(amount.mib)));

    let start = meter()?;
    for _ in 0..amount.mib {
        stream.write_all(&[GIVE]).context("cannot ask")?;
        for _ in 0..MIB / PIECE {
            stream.read_exact(&mut piece).context("nothing given")?;
        }
    }
    results.push(("a MiB from the guest", (meter()? - start) / f64::from(amount.mib)));
    Ok(results)
}
