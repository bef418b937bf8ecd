//! `probe`: a static program that workloads run for what busybox lacks.
//!
//! Each subcommand does one thing, prints what it found, and fails with a line on stderr.

mod activated;
mod adopt;
mod bench_files;
mod bench_init;
mod echo;
mod features;
mod files;
mod frames;
mod queues;
mod streams;

use std::env;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: probe COMMAND [ARGUMENT]...
  write BYTES SEED         the pattern to stdout
  both BYTES               patterns 1 to stdout and 2 to stderr, alternating
  verify SEED              compare stdin to its end with the pattern
  write-file FILE BYTES    the pattern 3 to a file, fsync, read again, compare
  map FILE                 write through a shared mapping
  fault FILE SECONDS       read a file through a mapping, until the time has passed and the process ends with 7
  lock FILE                hold flock, try to get it a second time, release
  sparse FILE              a hole between two bytes
  xattr FILE               set, list, get and remove attributes
  features DIRECTORY       use each thing that a container user expects of a kernel, in an empty directory
  acl FILE UID             let a user read the file, whose owner alone may otherwise
  crowd DIRECTORY COUNT    make, list, stat and remove files
  bench-files DIRECTORY MIB COUNT cold|warm
                           time operations on a file of MIB, and on the crowd of COUNT that is there
  bench-files-init MIB COUNT
                           the same as PID 1, on the virtio-fs with the tag `share`
  vsock-serve PORT         serve one connection to this port of the vsock: see e2e::exchange
  adopt PIDFILE COMMAND... run a command as an engine's shim does, tell the end of the process it leaves
  connect SOCKET           stdin to a unix socket, and what it answers to stdout
  hold                     lock stdout as splice(2) does; stdin to stderr, to its end
  activated                serve the sockets of sd_listen_fds(3): answer what comes to its end with the socket's number
  udp ADDRESS:PORT         stdin as one datagram, and what is answered to stdout
  datagrams ADDRESS:PORT COUNT BYTES
                           so many by UDP, as fast as they go
  count PORT FILE          make the file, then say how many datagrams come until none does, and in how many microseconds
  queues INTERFACE         what a network device has counted, queue by queue
  use-queues INTERFACE PAIRS
                           have it use so many pairs of queues
  echo PORT [GROUP]        answer over TCP and UDP with what comes, for ever, to a multicast group too
  frames INTERFACE COUNT SEED SUBNET MAC...
                           so many broken frames to all and to these, in a subnet of three numbers; how many the kernel took
  spoof INTERFACE MAC COUNT
                           so many frames to all, as if they were another's
  sniff INTERFACE FILE     make the file, listen to all that reaches the interface until the text
                           `the end of what is heard` does, say how many frames were another's alone
  signals                  print each signal that comes; ends at SIGTERM";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str).context(USAGE);
    let number = |index: usize| argument(index)?.parse::<u64>().with_context(|| format!("argument {index}"));
    match argument(0)? {
        "write" => streams::write(number(1)?, number(2)?),
        "both" => streams::both(number(1)?),
        "verify" => streams::verify(number(1)?),
        "activated" => activated::serve(),
        "adopt" => adopt::adopt(argument(1)?, arguments.get(2..).unwrap_or_default()),
        "connect" => streams::connect(argument(1)?),
        "hold" => streams::hold(),
        "udp" => streams::udp(argument(1)?),
        "count" => streams::count(number(1)?.try_into().context("port")?, argument(2)?),
        "datagrams" => streams::datagrams(argument(1)?, number(2)?, number(3)?),
        "echo" => {
            let group = arguments.get(2).map(|group| group.parse().context("group")).transpose()?;
            echo::serve(number(1)?.try_into().context("port")?, group)
        }
        "frames" => {
            let others = arguments.get(5..).unwrap_or_default();
            frames::flood(argument(1)?, number(2)?, number(3)?, argument(4)?, others)
        }
        "spoof" => frames::spoof(argument(1)?, argument(2)?, number(3)?),
        "sniff" => frames::sniff(argument(1)?, argument(2)?),
        "queues" => queues::show(argument(1)?),
        "use-queues" => queues::set(argument(1)?, number(2)?.try_into().context("pairs")?),
        "signals" => streams::signals(),
        "bench-files" => bench_files::Job {
            directory: argument(1)?.as_ref(),
            mib: number(2)?,
            count: number(3)?,
            evict: argument(4)? == "cold",
        }
        .run(),
        "vsock-serve" => streams::vsock_serve(number(1)?.try_into().context("port")?),
        "bench-files-init" => bench_init::files(number(1)?, number(2)?),
        "write-file" => files::write(argument(1)?, number(2)?),
        "map" => files::map(argument(1)?),
        "fault" => files::fault(argument(1)?, number(2)?),
        "features" => features::use_all(argument(1)?),
        "lock" => files::lock(argument(1)?),
        "sparse" => files::sparse(argument(1)?),
        "acl" => files::access_list(argument(1)?, number(2)?.try_into().context("UID")?),
        "xattr" => files::attributes(argument(1)?),
        "crowd" => files::crowd(argument(1)?, number(2)?),
        other => bail!("unknown command {other}\n{USAGE}"),
    }
}
