//! The container's network: what is in its network namespace on the host is in the guest, and nothing of it is left.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::network::{MTU, Namespace, ip};
use e2e::pattern::Pattern;
use e2e::{Bundle, Census, Deadline, Runtime, Sandbox, Setup, alone, together};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// A bundle whose network namespace is that one.
pub(crate) fn bundle_in(namespace: &Namespace, script: &str) -> Result<Bundle> {
    with_raw_sockets(Bundle::shell(script)?.edit(|spec| {
        let list = spec["linux"]["namespaces"].as_array_mut();
        for one in list.into_iter().flatten().filter(|one| one["type"] == "network") {
            one["path"] = json!(namespace.path());
        }
    })?)
}

/// For ping.
pub(crate) fn with_raw_sockets(bundle: Bundle) -> Result<Bundle> {
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let list = spec["process"]["capabilities"][set].as_array_mut();
            list.into_iter().for_each(|list| list.push(json!("CAP_NET_RAW")));
        }
    })
}

/// What a command in the container says.
pub(crate) fn said(runv: &Runtime<'_>, command: &str) -> Result<String> {
    Ok(runv.call(&["exec", "c1", "sh", "-c", command])?.expect(0)?.stdout)
}

#[test]
fn an_interface_of_the_namespace_is_the_guests_with_all_that_belongs_to_it() -> Result<()> {
    let _order = together();
    let namespace = Namespace::new(1)?;
    let bundle = bundle_in(&namespace, "sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;

    let link = said(&runv, "ip addr show net7")?;
    for text in [
        &format!("mtu {MTU}"),
        &namespace.mac(),
        "UP,LOWER_UP",
        "inet 10.77.1.2/24 brd 10.77.1.255",
        "inet6 fd77:1::2/64",
        "inet6 fe80::77:ff:fe00:1/64",
    ] {
        ensure!(link.contains(text), "{text} in {link}");
    }
    ensure!(!link.contains("tentative"), "{link}");
    let routes = said(&runv, "ip route; ip -6 route; ip rule; ip neigh")?;
    for text in [
        "default via 10.77.1.1 dev net7",
        "10.77.1.0/24 dev net7 scope link  src 10.77.1.2",
        "192.0.2.0/24 via 10.77.1.1 dev net7  metric 7",
        "unreachable 198.51.100.0/24",
        "default via fd77:1::1 dev net7",
        "1000:\tfrom 10.77.1.2 lookup 100",
        "10.77.1.9 dev net7 lladdr 02:00:00:00:00:09",
    ] {
        ensure!(routes.contains(text), "{text} in {routes}");
    }
    let interfaces = said(&runv, "ls /sys/class/net")?;
    assert_eq!(interfaces.split_whitespace().collect::<Vec<_>>(), ["lo", "net7"]);

    said(&runv, "ping -c 2 -W 5 10.77.1.1 && ping6 -c 2 -W 5 fd77:1::1")?;
    ip("neigh flush all")?;
    for address in ["10.77.1.2", "fd77:1::2"] {
        // From here to the guest, which must answer for its addresses.
        let output =
            std::process::Command::new("busybox").args(["ping", "-c", "2", "-W", "5", address]).output()?;
        ensure!(output.status.success(), "{output:?}");
    }
    Ok(())
}

#[test]
fn bytes_of_tcp_and_udp_arrive_as_they_were_sent_each_way() -> Result<()> {
    let _order = alone();
    let size = Setup::get()?.size("bytes each way", 20 << 20, 1 << 20);
    let namespace = Namespace::new(2)?;
    let bundle = bundle_in(&namespace, "sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;

    for (here, nc) in [("10.77.2.1:5001", "10.77.2.1 5001"), ("[fd77:2::1]:5001", "fd77:2::1 5001")] {
        let listener = TcpListener::bind(here)?;
        let accept = thread::spawn(move || -> Result<u64> {
            let (mut from, _) = listener.accept()?;
            let received = Pattern::new(1).verify(&mut from)?;
            // nc waits for this end to close too.
            drop(from);
            let (mut to, _) = listener.accept()?;
            Pattern::new(2).write(size, &mut to)?;
            Ok(received)
        });
        said(&runv, &format!("probe write {size} 1 | nc {nc}"))?;
        let verified = said(&runv, &format!("nc {nc} </dev/null | probe verify 2"))?;
        ensure!(verified.contains(&size.to_string()), "{verified}");
        let received = accept.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
        assert_eq!(received, size);
    }

    let socket = UdpSocket::bind("10.77.2.1:5002")?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let answer = thread::spawn(move || -> Result<Vec<u8>> {
        let mut datagram = vec![0; 4096];
        let (length, from) = socket.recv_from(&mut datagram)?;
        socket.send_to(b"answer", from)?;
        datagram.truncate(length);
        Ok(datagram)
    });
    // Larger than the MTU, so in pieces.
    let heard = said(&runv, "probe write 3000 3 | probe udp 10.77.2.1:5002")?;
    let mut expected = vec![0; 3000];
    Pattern::new(3).fill(&mut expected);
    assert_eq!(answer.join().map_err(|_| anyhow::anyhow!("the socket panicked"))??, expected);
    assert_eq!(heard, "answer");
    Ok(())
}

#[test]
fn a_server_in_the_guest_is_reached_and_a_port_without_one_refuses() -> Result<()> {
    let _order = together();
    let namespace = Namespace::new(3)?;
    // As docker does on networks without IPv6.
    ip("netns exec net3 busybox sysctl -w net.ipv6.conf.net7.disable_ipv6=1")?;
    // It serves on: the port beside it is the guest's as long as the guest is there.
    let bundle = bundle_in(&namespace, "nc -ll -p 80 -e cat")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let addresses = said(&runv, "ip addr show net7")?;
    ensure!(!addresses.contains("inet6"), "{addresses}");
    let mut client =
        Deadline::generous()?.wait_for("the server", || Ok(TcpStream::connect("10.77.3.2:80").ok()))?;
    client.write_all(b"hello")?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut heard = String::new();
    client.read_to_string(&mut heard)?;
    assert_eq!(heard, "hello");
    let refused = TcpStream::connect("10.77.3.2:81").map(drop);
    assert_eq!(refused.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionRefused));
    Ok(())
}

#[test]
fn nothing_is_left_in_the_namespace_however_the_sandbox_ends() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(4)?;
    let (census, before) = (Census::take()?, namespace.inside()?);
    let bundle = bundle_in(&namespace, "sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    for kill in [false, true] {
        runv.run_detached("c1")?;
        ensure!(namespace.inside()?.contains("runv0"), "the tap");
        if kill {
            let pid = Pid::from_raw(runv.read("pid").parse()?).context("process 0")?;
            kill_process(pid, Signal::KILL)?;
            runv.wait_for_status("c1", "stopped")?;
        } else {
            runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
            runv.wait_for_status("c1", "stopped")?;
        }
        // Before anybody has cleaned up: it goes by itself.
        Deadline::after(Duration::from_secs(5))?.wait_for("the tap's end", || {
            let now = namespace.inside()?;
            Ok((now == before).then_some(()))
        })?;
        // The host's own stack has the interface again, so the rules are gone too.
        let answered = ip("netns exec net4 busybox ping -c 1 -W 5 10.77.4.1");
        ensure!(answered.is_ok(), "{answered:?}");
        runv.call(&["delete", "c1"])?.expect(0)?;
    }
    census.restored(Deadline::after(Duration::from_secs(5))?)
}

#[test]
fn only_one_machine_can_have_the_interfaces_of_a_namespace() -> Result<()> {
    let _order = together();
    let namespace = Namespace::new(5)?;
    let first = bundle_in(&namespace, "sleep 1000")?;
    let runv = Runtime::new(&first)?;
    runv.run_detached("c1")?;
    let second = bundle_in(&namespace, "true")?;
    let other = Runtime::new(&second)?;
    other.leave(&["create", "c2"])?.refused("are those of another sandbox")?;
    said(&runv, "ping -c 1 -W 5 10.77.5.1")?;
    Ok(())
}

#[test]
fn what_a_hook_puts_into_a_new_namespace_is_the_guests() -> Result<()> {
    let _order = together();
    for list in ["prestart", "createRuntime"] {
        // By its path, as the shell of the nested host has an `ip` of its own.
        let script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); ip=/bin/ip
            $ip link add hooked type veth peer name eth0 netns $pid && nsenter -n -t $pid $ip addr add 10.77.6.2/24 dev eth0
            nsenter -n -t $pid $ip link set eth0 up && $ip addr add 10.77.6.1/24 dev hooked && $ip link set hooked up";
        let hook = json!({ list: [{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"], "timeout": 20 }] });
        let bundle = Bundle::shell("sleep 1000")?.edit(|spec| spec["hooks"] = hook)?;
        let runv = Runtime::new(&bundle)?;
        runv.run_detached("c1")?;
        ensure!(said(&runv, "ip addr show eth0")?.contains("inet 10.77.6.2/24"), "the address");
        let listener = TcpListener::bind("10.77.6.1:5006")?;
        let accept = thread::spawn(move || -> Result<String> {
            let mut text = String::new();
            listener.accept()?.0.read_to_string(&mut text)?;
            Ok(text)
        });
        said(&runv, "echo hello | nc 10.77.6.1 5006")?;
        assert_eq!(accept.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??, "hello\n");
        runv.call(&["delete", "--force", "c1"])?.expect(0)?;
        // With the namespace went its end of the veth, and so this one.
        Deadline::generous()?
            .wait_for("the veth's end", || Ok(ip("link show hooked").is_err().then_some(())))?;
    }
    Ok(())
}

#[test]
fn the_interfaces_of_the_hosts_own_namespace_are_never_the_guests() -> Result<()> {
    let _order = together();
    let namespace = Namespace::new(7)?;
    let path = format!("/proc/{}/ns/net", std::process::id());
    let bundle = Bundle::shell("ls /sys/class/net")?.edit(|spec| {
        let list = spec["linux"]["namespaces"].as_array_mut();
        for one in list.into_iter().flatten().filter(|one| one["type"] == "network") {
            one["path"] = json!(path);
        }
    })?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.wait_for_status("c1", "stopped")?;
    assert_eq!(runv.read("out"), "lo\n");
    ensure!(ip(&format!("link show {}", namespace.peer())).is_ok(), "the host's interface");
    Ok(())
}

/// As `runv run` does.
#[test]
fn sandbox_run_has_the_interfaces_of_a_namespace_by_path() -> Result<()> {
    let _order = together();
    let namespace = Namespace::new(19)?;
    let before = namespace.inside()?;
    let bundle =
        bundle_in(&namespace, "ip -o addr show net7; ping -c 1 -W 5 10.77.19.1 >/dev/null && echo reached")?;
    let text = Sandbox::run(&bundle)?.finish()?.expect_code(0)?.text();
    ensure!(text.contains("inet 10.77.19.2/24") && text.ends_with("reached\n"), "{text}");
    assert_eq!(namespace.inside()?, before);
    Ok(())
}

/// This host's programs, which the nested one has not.
#[test]
fn iptables_and_nft_work_in_the_container() -> Result<()> {
    let _order = together();
    if Setup::get()?.nested() {
        println!("the nested host has no programs to take along");
        return Ok(());
    }
    let namespace = Namespace::new(21)?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let list = spec["process"]["capabilities"][set].as_array_mut();
            list.into_iter().for_each(|list| list.push(json!("CAP_NET_ADMIN")));
        }
        for path in ["/usr", "/lib", "/lib64"] {
            let bind =
                json!({ "destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"] });
            spec["mounts"].as_array_mut().into_iter().for_each(|list| list.push(bind.clone()));
        }
    })?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let redirect = "-t nat -A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 80";
    said(&runv, &format!("XTABLES_LOCKFILE=/tmp/lock /usr/sbin/iptables-nft {redirect}"))?;
    let script = "add table ip own; add chain ip own pre { type nat hook prerouting priority -110; };
        add rule ip own pre tcp dport 82 redirect to :80; add rule ip own pre tcp dport 83 counter drop";
    said(&runv, &format!("/usr/sbin/nft '{script}'"))?;
    for port in [81, 82] {
        answers(&mut connected(&format!("10.77.21.2:{port}"))?, "led there")?;
    }
    let to = ([10, 77, 21, 2], 83).into();
    let dropped = TcpStream::connect_timeout(&to, Duration::from_millis(300)).map(drop);
    assert_eq!(dropped.map_err(|error| error.kind()), Err(std::io::ErrorKind::TimedOut));
    let listed = said(&runv, "/usr/sbin/nft list table ip own")?;
    ensure!(!listed.contains("counter packets 0 "), "{listed}");
    // The host's half of the namespace has none of it.
    let outside = ip("netns exec net21 nft list tables ip")?;
    ensure!(outside.is_empty(), "{outside}");
    Ok(())
}

/// A connection to a server of echo in the guest, which may not listen yet.
pub(crate) fn connected(address: &str) -> Result<TcpStream> {
    let stream = Deadline::generous()?.wait_for("the server", || Ok(TcpStream::connect(address).ok()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Asserts that it answers.
pub(crate) fn answers(stream: &mut TcpStream, text: &str) -> Result<()> {
    stream.write_all(text.as_bytes())?;
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).with_context(|| format!("no answer to {text}"))?;
    assert_eq!(heard, text.as_bytes());
    Ok(())
}

#[test]
fn many_connections_at_once_are_kept_apart_and_resets_harm_no_other() -> Result<()> {
    let _order = alone();
    let count = Setup::get()?.size("connections", 1000, 100);
    let namespace = Namespace::new(8)?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    connected("10.77.8.2:80")?;
    let all = (0..count).map(|_| connected("10.77.8.2:80")).collect::<Result<Vec<_>>>()?;
    for (number, mut stream) in all.iter().enumerate() {
        stream.write_all(format!("{number:04}").as_bytes())?;
    }
    for (number, mut stream) in all.iter().enumerate() {
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).with_context(|| format!("no answer on connection {number}"))?;
        assert_eq!(heard, *format!("{number:04}").as_bytes());
    }
    // Every second one ends by a reset, as something is unread; the others go on.
    let mut kept = Vec::new();
    for (number, mut stream) in all.into_iter().enumerate() {
        if number % 2 == 0 {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            stream.write_all(b"unread")?;
        } else {
            kept.push(stream);
        }
    }
    for (number, stream) in kept.iter_mut().enumerate() {
        answers(stream, &format!("still {number}"))?;
    }
    answers(&mut connected("10.77.8.2:80")?, "new")
}

#[test]
fn an_interface_that_is_taken_away_in_use_harms_nothing_else() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(9)?;
    let census = Census::take()?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let mut stream = connected("10.77.9.2:80")?;
    answers(&mut stream, "before")?;
    let mut sending = stream.try_clone()?;
    let sender = thread::spawn(move || {
        let bytes = [0; 65_536];
        while sending.write_all(&bytes).is_ok() {}
    });
    // Both ways are busy then: the server sends back what it gets.
    let mut some = vec![0; 1 << 20];
    stream.read_exact(&mut some)?;
    ip(&format!("link del {}", namespace.peer()))?;
    assert_eq!(said(&runv, "echo alive")?, "alive\n");
    stream.shutdown(std::net::Shutdown::Both)?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    ensure!(!namespace.inside()?.contains("runv"), "the tap");
    census.restored(Deadline::after(Duration::from_secs(5))?)
}
