//! `docker run --rm` of `true`, with runv and with runc, on this machine: with runv the guest is emulated, so that the
//! ratio says how much emulation costs; what is docker's own part is in both.

use std::time::Instant;

use anyhow::Result;

use crate::emulation::median;
use crate::engine::{Engine, IMAGE};
use crate::report::Measurement;

const ROUNDS: usize = 5;

pub(crate) fn measure() -> Result<Vec<Measurement>> {
    let docker = Engine::docker()?;
    let run = |runtime| -> Result<f64> {
        let begin = Instant::now();
        docker
            .call(["run", "--rm", "--network", "none", "--runtime", runtime, IMAGE, "true"])?
            .expect(0)
            .map(|_| begin.elapsed().as_secs_f64() * 1000.0)
    };
    let (mut ours, mut runc) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(run("runv")?);
        runc.push(run("runc")?);
    }
    let name = "docker run --rm of true (noisy)";
    Ok(vec![Measurement::new("B4", name, median(ours), "ms, TCG").peer("runc", median(runc))])
}
