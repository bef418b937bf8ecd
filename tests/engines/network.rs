//! Networks of engines: a container in a machine is on them as any other.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::network::ip;
use e2e::{Deadline, alone, together};

use crate::engine::{Container, Engine, IMAGE};

crate::engine::each_engine! {
    containers_on_one_bridge_reach_each_other_whatever_their_runtime,
    published_ports_are_those_of_the_container,
    nothing_of_a_network_is_left_however_a_container_ends,
}

/// Answers on port 80 with what it is sent, until it is told to end.
pub(crate) const ECHO: &str = "trap 'exit 0' TERM; probe echo 80 & wait";

/// Only runs, until it is told to end.
pub(crate) const UNTIL_TERM: &str = "trap 'exit 0' TERM; echo up; sleep 1000 & wait";

/// The network that each has by itself.
fn default_of(engine: &Engine) -> &'static str {
    if engine.name == "podman" { "podman" } else { "bridge" }
}

/// The address in a network.
pub(crate) fn address(container: &Container<'_>, network: &str) -> Result<String> {
    container.inspect(&format!("(index .NetworkSettings.Networks \"{network}\").IPAddress"))
}

/// podman's containers may not ping by themselves.
pub(crate) const PING: [&str; 2] = ["--cap-add", "NET_RAW"];

/// Asserts that an echo is reached by ICMP, TCP and UDP.
pub(crate) fn reaches(from: &Container<'_>, to: &str) -> Result<()> {
    let at = if to.contains(':') { format!("[{to}]") } else { to.to_owned() };
    let script = format!(
        "ping -c 1 -W 5 {to} >/dev/null && echo stream | nc {to} 80 && printf datagram | probe udp {at}:80"
    );
    let heard = from.exec(&[], &script)?.expect(0)?.stdout;
    ensure!(heard == "stream\ndatagram", "{} heard {heard:?} of {to}", from.id);
    Ok(())
}

fn containers_on_one_bridge_reach_each_other_whatever_their_runtime(engine: &Engine) -> Result<()> {
    let _order = together();
    let network = default_of(engine);
    let runc = engine.with_runc();
    let plain: &[&str] = if engine.name == "podman" { &[] } else { &["--runtime", "runc"] };
    let plain = [&PING, plain].concat();
    let all = [
        engine.start_in(network, &PING, ECHO)?,
        engine.start_in(network, &PING, ECHO)?,
        runc.start_in(network, &plain, ECHO)?,
    ];
    all.iter().try_for_each(|container| container.wrote("ready"))?;
    let addresses = all.iter().map(|container| address(container, network)).collect::<Result<Vec<_>>>()?;
    for [from, to] in [[0, 1], [1, 2], [2, 0]] {
        reaches(&all[from], &addresses[to])?;
    }
    // What the engine has chosen is what the guest has.
    let mac = all[0].inspect(&format!("(index .NetworkSettings.Networks \"{network}\").MacAddress"))?;
    let link = all[0].exec(&[], "ip addr show eth0; ip route; uname -r")?.expect(0)?.stdout;
    for text in [mac.as_str(), &addresses[0], "default via", "-runv"] {
        ensure!(link.contains(text), "{text} in {link}");
    }
    Ok(())
}

/// What a server of echo on this host answers.
pub(crate) fn echo(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"stream")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer from {address}"))?;
    Ok(text)
}

/// Asserts that an echo is reached from this host by published ports.
pub(crate) fn answers_by(host: &str, tcp: u16, udp: u16) -> Result<()> {
    let address: IpAddr = host.parse()?;
    assert_eq!(echo(&SocketAddr::new(address, tcp).to_string())?, "stream");
    let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.connect((address, udp))?;
    socket.send(b"datagram")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).with_context(|| format!("no answer from {host}"))?;
    assert_eq!(&answer[..length], b"datagram");
    Ok(())
}

fn published_ports_are_those_of_the_container(engine: &Engine) -> Result<()> {
    let _order = together();
    let (network, offset) = (default_of(engine), if engine.name == "podman" { 10 } else { 0 });
    let (tcp, udp) = (8080 + offset, 8081 + offset);
    let ports = [format!("{tcp}:80"), format!("{udp}:80/udp")];
    let server = engine.start_in(network, &["-p", &ports[0], "-p", &ports[1]], ECHO)?;
    server.wrote("ready")?;
    let gateway = server.inspect(&format!("(index .NetworkSettings.Networks \"{network}\").Gateway"))?;
    for host in ["127.0.0.1", &gateway] {
        answers_by(host, tcp, udp)?;
    }
    // CNI's plug-in publishes no port of a network without IPv6 there; docker has a process for it.
    if engine.name == "docker" {
        answers_by("::1", tcp, udp)?;
    }
    let client = engine.start_in(network, &[], UNTIL_TERM)?;
    let heard = client.exec(&[], &format!("echo hello | nc {gateway} {tcp}"))?.expect(0)?.stdout;
    assert_eq!(heard, "hello\n");
    Ok(())
}

fn nothing_of_a_network_is_left_however_a_container_ends(engine: &Engine) -> Result<()> {
    let _order = alone();
    let seen = || -> Result<Vec<String>> {
        let links = ip("-o link show")?;
        // Ports of bridges have names of chance; a bridge stays with its network.
        let ports = links.lines().filter(|line| line.contains("veth") || line.contains("runv"));
        Ok(ports.map(str::to_owned).collect())
    };
    let before = seen()?;
    for signal in ["TERM", "KILL"] {
        let container = engine.start_in(default_of(engine), &[], UNTIL_TERM)?;
        container.wrote("up")?;
        ensure!(seen()? != before, "a port of the bridge");
        container.call(&["kill", "--signal", signal])?.expect(0)?;
        container.wait()?;
        container.call(&["rm"])?.expect(0)?;
        Deadline::generous()?.wait_for("the network's end", || Ok((seen()? == before).then_some(())))?;
    }
    Ok(())
}

/// A network, removed with its end.
pub(crate) struct Network<'engine> {
    pub(crate) engine: &'engine Engine,
    pub(crate) name: &'engine str,
}

impl Network<'static> {
    /// One of docker's.
    pub(crate) fn new(name: &'static str, options: &[&str]) -> Result<Self> {
        Self::of(Engine::docker()?, name, options)
    }
}

impl<'engine> Network<'engine> {
    pub(crate) fn of(engine: &'engine Engine, name: &'engine str, options: &[&str]) -> Result<Self> {
        engine.call(["network", "create"].iter().chain(options).chain(&[name]))?.expect(0)?;
        Ok(Self { engine, name })
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // The test's own error is the one to tell.
        let _ = self.engine.call(["network", "rm", self.name]);
    }
}

#[test]
fn addresses_and_names_are_those_that_docker_is_told() -> Result<()> {
    let _order = together();
    let network = Network::new("told", &["--ipv6", "--subnet", "10.78.1.0/24", "--subnet", "fd78:1::/64"])?;
    let docker = network.engine;
    let options = ["--ip", "10.78.1.7", "--ip6", "fd78:1::7", "--mac-address", "02:78:00:00:00:07"];
    let names = ["--add-host", "other:192.0.2.1", "--dns", "192.0.2.53", "--dns-search", "example.org"];
    let server = docker.start_in("told", &[&options[..], &names].concat(), ECHO)?;
    server.wrote("ready")?;
    let seen = server.exec(&[], "ip addr show eth0; cat /etc/hosts /etc/resolv.conf")?.expect(0)?.stdout;
    for text in
        ["10.78.1.7/24", "fd78:1::7/64", "02:78:00:00:00:07", "192.0.2.1\tother", "search example.org"]
    {
        ensure!(seen.contains(text), "{text} in {seen}");
    }
    let client = docker.start_in("told", &["--runtime", "runc"], ECHO)?;
    client.wrote("ready")?;
    for to in ["10.78.1.7", "fd78:1::7"] {
        reaches(&client, to)?;
    }
    for field in ["IPAddress", "GlobalIPv6Address"] {
        reaches(&server, &client.inspect(&format!(".NetworkSettings.Networks.told.{field}"))?)?;
    }
    // On the default bridge, --dns is what the container itself asks.
    let resolver =
        ["run", "--rm", "--network", "bridge", "--dns", "192.0.2.53", IMAGE, "cat", "/etc/resolv.conf"];
    assert_eq!(docker.call(resolver)?.expect(0)?.stdout, "nameserver 192.0.2.53\n");
    Ok(())
}

#[test]
fn a_container_is_on_each_network_that_it_has_been_put_on_and_can_leave_one() -> Result<()> {
    let _order = together();
    let first = Network::new("first", &["--subnet", "10.78.3.0/24"])?;
    let _second = Network::new("second", &["--subnet", "10.78.4.0/24"])?;
    let docker = first.engine;
    let peers = [
        docker.start_in("first", &["--runtime", "runc"], ECHO)?,
        docker.start_in("second", &["--runtime", "runc"], ECHO)?,
    ];
    peers.iter().try_for_each(|peer| peer.wrote("ready"))?;
    let create = ["create", "--name", "on-both", "--network", "first", IMAGE, "sh", "-c", UNTIL_TERM];
    docker.call(create)?.expect(0)?;
    let container = docker.existing("on-both");
    docker.call(["network", "connect", "second", "on-both"])?.expect(0)?;
    container.call(&["start"])?.expect(0)?;
    for (peer, network) in peers.iter().zip(["first", "second"]) {
        reaches(&container, &address(peer, network)?)?;
    }
    // What is left is not disturbed.
    docker.call(["network", "disconnect", "second", "on-both"])?.expect(0)?;
    reaches(&container, &address(&peers[0], "first")?)
}

#[test]
fn a_container_that_runs_is_connected_to_a_network_and_leaves_it() -> Result<()> {
    let _order = together();
    let network = Network::new("later", &["--subnet", "10.78.5.0/24"])?;
    let docker = network.engine;
    let peer = docker.start_in("later", &["--runtime", "runc", "--name", "later-peer"], ECHO)?;
    let container = docker.start_in("bridge", &["--name", "connected"], ECHO)?;
    peer.wrote("ready")?;
    container.wrote("ready")?;
    let to_peer = address(&peer, "later")?;
    for ip in ["10.78.5.7", "10.78.5.8"] {
        docker.call(["network", "connect", "--ip", ip, "later", "connected"])?.expect(0)?;
        Deadline::generous()?.wait_for("the interface", || {
            // docker gives each its own number.
            let shown = container.exec(&[], "ip addr")?;
            Ok(shown.stdout.contains(&format!("inet {ip}/24")).then_some(()))
        })?;
        reaches(&container, &to_peer)?;
        reaches(&peer, ip)?;
        // The resolver has come with the network.
        let found = container.exec(&[], "nslookup later-peer")?.expect(0)?.stdout;
        ensure!(found.contains(&format!("Address: {to_peer}")), "{found}");
        docker.call(["network", "disconnect", "later", "connected"])?.expect(0)?;
        Deadline::generous()?.wait_for("the interface's end", || {
            Ok((container.exec(&[], "ls /sys/class/net")?.stdout == "eth0\nlo\n").then_some(()))
        })?;
    }
    Ok(())
}

/// The host's network is another kernel's.
#[test]
fn on_the_hosts_network_there_is_a_loopback_of_the_machine() -> Result<()> {
    let _order = alone();
    for engine in [Engine::docker()?, Engine::podman()?] {
        let before = ip("-o link show")?.lines().count();
        let seen = "ls /sys/class/net; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo answered";
        let run = ["run", "--rm", "--network", "host", "--cap-add", "NET_RAW", IMAGE, "sh", "-c", seen];
        assert_eq!(engine.call(run)?.expect(0)?.stdout, "lo\nanswered\n", "{}", engine.name);
        ensure!(ip("-o link show")?.lines().count() == before, "the host's interfaces");
    }
    Ok(())
}

/// The only answer of [`name_server`].
const ELSEWHERE: [u8; 4] = [192, 0, 2, 99];

/// Answers every question by UDP and TCP with [`ELSEWHERE`], until the tests end.
fn name_server(address: &str) -> Result<()> {
    let socket = UdpSocket::bind((address, 53)).context("cannot make a socket")?;
    let listener = TcpListener::bind((address, 53)).context("cannot listen")?;
    thread::spawn(move || -> Result<()> {
        let mut question = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut question)?;
            socket.send_to(&answer_to(&question[..length]), peer)?;
        }
    });
    thread::spawn(move || -> Result<()> {
        for connection in listener.incoming() {
            let (mut connection, mut length) = (connection?, [0; 2]);
            connection.read_exact(&mut length)?;
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            connection.read_exact(&mut question)?;
            connection.write_all(&with_length(&answer_to(&question)))?;
        }
        Ok(())
    });
    Ok(())
}

/// RFC 1035, section 4.1.
fn answer_to(question: &[u8]) -> Vec<u8> {
    // One label after the other, then type and class; what follows is not asked.
    let mut end = 12;
    while question[end] != 0 {
        end += usize::from(question[end]) + 1;
    }
    let asked = &question[12..end + 5];
    let is_address = asked[asked.len() - 3] == 1;
    let answers = u8::from(is_address);
    let mut message = [&question[..2], &[0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0], asked].concat();
    if is_address {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(ELSEWHERE);
    }
    message
}

/// For TCP.
fn with_length(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], message].concat()
}

/// What the resolver says of a name by TCP, as a dump.
fn ask_by_tcp(container: &Container<'_>, name: &str) -> Result<String> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let escaped: String = with_length(&question).iter().map(|byte| format!("\\{byte:03o}")).collect();
    // The end of the questions may be taken for that of the interest in answers.
    let asks = format!("printf '{escaped}'; until [ -s /tmp/answer ]; do sleep 0.1; done");
    let script = format!(
        "rm -f /tmp/answer; ({asks}) | nc 127.0.0.11 53 >/tmp/answer; hexdump -ve '1/1 \"%02x\"' /tmp/answer"
    );
    Ok(container.exec(&[], &script)?.expect(0)?.stdout)
}

#[test]
fn names_on_a_network_of_ones_own_are_resolved() -> Result<()> {
    let _order = together();
    let network = Network::new("named", &["--subnet", "10.78.2.0/24", "--gateway", "10.78.2.1"])?;
    let docker = network.engine;
    name_server("10.78.2.1")?;
    let options = ["--name", "named-client", "--dns", "10.78.2.1"];
    let client = docker.start_in("named", &options, UNTIL_TERM)?;
    let plain = ["--name", "named-plain", "--runtime", "runc", "--ip", "10.78.2.9"];
    let server = docker.start_in("named", &plain, ECHO)?;
    server.wrote("ready")?;
    assert_eq!(
        client.exec(&[], "cat /etc/resolv.conf")?.expect(0)?.stdout,
        "nameserver 127.0.0.11\noptions ndots:0\n"
    );

    // Of a container that has come later, many times at once; then by TCP.
    let many = "for i in $(seq 20); do nslookup named-plain & done; wait";
    let heard = client.exec(&[], many)?.expect(0)?.stdout;
    assert_eq!(heard.matches("Address: 10.78.2.9").count(), 20, "{heard}");
    ensure!(client.exec(&[], "echo hello | nc named-plain 80")?.expect(0)?.stdout == "hello\n", "the echo");
    let heard = ask_by_tcp(&client, "named-plain")?;
    ensure!(heard.ends_with("00040a4e0209"), "{heard}");
    let heard = server.exec(&[], "nslookup named-client")?.expect(0)?.stdout;
    ensure!(heard.contains(&address(&client, "named")?), "{heard}");

    // The resolver's own questions leave by the interface that is the guest's, and answers find it.
    let heard = client.exec(&[], "nslookup elsewhere.example.org")?.expect(0)?.stdout;
    ensure!(heard.contains("Address: 192.0.2.99"), "{heard}");
    let heard = ask_by_tcp(&client, "elsewhere.example.org")?;
    ensure!(heard.ends_with("0004c0000263"), "{heard}");

    // The port is free for a name server in the container.
    let shadow = "nc -ll -p 53 -e cat & sleep 1000 & wait";
    client.exec(&["--detach"], shadow)?.expect(0)?;
    let address = address(&client, "named")?;
    Deadline::generous()?.wait_for("the server in the container", || {
        let answer = server.exec(&[], &format!("echo own | nc {address} 53"))?;
        Ok((answer.stdout == "own\n").then_some(()))
    })?;
    assert_eq!(
        client.exec(&[], "nslookup -type=a named-plain >/dev/null && echo still")?.expect(0)?.stdout,
        "still\n"
    );
    Ok(())
}
