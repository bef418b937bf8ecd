//! `docker run --rm` of `true`, with runv and with runc. What is docker's own part is in both.

use std::time::Instant;

use anyhow::Result;

use crate::emulation::median;
use crate::engine::{Engine, IMAGE};
use crate::report::Measurement;

const ROUNDS: usize = 5;

/// By the clock. On this machine a guest is emulated and runc is not, so that the ratio says how much that costs; in the nested
/// host both are.
pub(crate) fn measure(unit: &'static str) -> Result<Vec<Measurement>> {
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
    Ok(vec![Measurement::new("B4", name, median(ours), unit).peer("runc", median(runc))])
}
