//! config.md, "Process", and what of config-linux.md one container shows beside it.

use std::fs;

use anyhow::Result;
use e2e::Bundle;
use serde_json::json;

use crate::{Subject, both, pairs};

const SCRIPT: &str = r#"
echo "cwd=$(pwd)"; echo "env=$A"; echo "args=$0 $*"; echo "uid=$(id -u)"; echo "gid=$(id -g)"
echo "groups=$(id -G)"
echo "files=$(awk '/open files/ { print $4, $5 }' /proc/self/limits)"
echo "core=$(awk '/core file/ { print $5, $6 }' /proc/self/limits)"
echo "score=$(cat /proc/self/oom_score_adj)"
test -t 0 || test -t 1 && echo terminal=yes || echo terminal=no
for name in null zero full random urandom tty; do echo "$name=$(stat -c '%F %t:%T' /dev/$name)"; done
echo "ptmx=$(readlink -f /dev/ptmx)"; stat -c ptmx-device=%t:%T /dev/pts/ptmx
test -e /dev/console && echo console=yes || echo console=no
echo "listed=$(stat -c '%F %t:%T %a %u %g' /srv/listed)"
"#;

#[test]
fn process() -> Result<()> {
    both(
        "process",
        |_| bundle(),
        |subject| {
            let flags = ["--log", "log", "--debug"];
            let answer = subject.runtime.leave(&[&flags[..], &["create", "c1"]].concat())?;
            let warned = |log: &str| log.lines().any(|line| line.contains("CAP_UNKNOWN") && is_warning(line));
            subject.must(
                "config.capabilities",
                answer.code == 0 && warned(&subject.runtime.read("log")),
                &answer,
            );
            subject.runtime.call(&["start", "c1"])?.expect(0)?;
            subject.runtime.wait_for_status("c1", "stopped")?;
            let output = subject.runtime.read("out");
            asked(subject, &output);
            devices(subject, &output);
            Ok(())
        },
    )
}

fn bundle() -> Result<Bundle> {
    let bundle = Bundle::new(&["sh", "-c", SCRIPT, "zero", "one two", "three"])?;
    fs::create_dir(bundle.rootfs().join("srv"))?;
    bundle.edit(|spec| {
        let process = &mut spec["process"];
        process["cwd"] = json!("/tmp");
        process["env"] = json!(["PATH=/bin", "A=b c"]);
        process["user"] = json!({ "uid": 0, "gid": 6, "additionalGids": [7, 8] });
        process["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 500, "hard": 1000 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }
        ]);
        process["oomScoreAdj"] = json!(123);
        process["consoleSize"] = json!({ "height": 10, "width": 20 });
        process["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_UNKNOWN"]);
        spec["linux"]["devices"] = json!([
            { "path": "/srv/listed", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 4, "gid": 5 }
        ]);
    })
}

fn is_warning(line: &str) -> bool {
    line.to_ascii_lowercase().contains("warn")
}

fn asked(subject: &Subject<'_>, output: &str) {
    let seen = pairs(output);
    let get = |key: &str| seen.get(key).copied().unwrap_or_default();
    let process = ["cwd", "env", "args", "uid", "gid"].map(get);
    let expected = ["/tmp", "b c", "zero one two three", "0", "6"];
    // The order of groups is the kernel's.
    let mut groups: Vec<&str> = get("groups").split(' ').collect();
    groups.sort_unstable();
    subject.must("start.process", process == expected && groups == ["6", "7", "8"], output);
    subject.must("config.rlimit-values", get("files") == "500 1000" && get("core") == "0 0", output);
    subject.must("config.oom-score-set", get("score") == "123", output);
    subject.must("config.console-size", get("terminal") == "no", output);
}

fn devices(subject: &Subject<'_>, output: &str) {
    let seen = pairs(output);
    for (name, number) in [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ] {
        let expected = format!("character special file {number}");
        subject.must("linux.default-devices", seen.get(name) == Some(&expected.as_str()), output);
    }
    let ptmx = seen.get("ptmx") == Some(&"/dev/pts/ptmx") && seen.get("ptmx-device") == Some(&"5:2");
    subject.must("linux.default-devices", ptmx, output);
    subject.must("linux.default-devices", seen.get("console") == Some(&"no"), output);
    let listed = seen.get("listed") == Some(&"character special file a:e5 640 4 5");
    subject.must("linux.devices", listed, output);
}
