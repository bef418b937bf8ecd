//! What comes in at an interface goes out at its tap, and the other way round, before the host's own stack sees it.
//!
//! The rules are nf_tables' (`fwd` at the ingress of devices) in a table with the flag `owner` (Linux 5.12): such a table
//! is nobody else's to change, and goes when the socket that has made it closes, whatever ends the process. What
//! tc has for this purpose (an ingress qdisc with filters) would stay on the interface of a killed sandbox, which may outlive it.

use std::io;

use super::netlink::Socket;
use super::nf_tables::{
    Batch, Expression, FIRST, Hook, NETDEV, Order, TABLE_OWNER, accept, duplicate, forward, if_meta,
    if_payload, immediate,
};
use super::resolver::{FIRST_OWN_PORT, PORT};

/// Of the table; the flag `owner` makes it this sandbox's alone.
const TABLE: &str = "runv";

/// `NF_NETDEV_INGRESS`.
const INGRESS: u32 = 0;

/// `NFT_META_PROTOCOL` and `NFT_META_L4PROTO`.
const PROTOCOL: u32 = 1;
const TRANSPORT: u32 = 16;

/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// The rules are there as long as this is open.
#[derive(Debug)]
pub(crate) struct Redirect {
    owner: Socket,
    has_resolver: bool,
}

/// An interface, by name and number.
pub(super) type End = (String, u32);

impl Redirect {
    /// Joins the interfaces of each pair, of which the first is the namespace's and the second the tap. With
    /// `has_resolver`, a name server in the namespace asks others by the first.
    /// `AlreadyExists` and `PermissionDenied` mean that another sandbox has joined them.
    pub(super) fn between(pairs: &[[End; 2]], has_resolver: bool) -> io::Result<Self> {
        let owner = Socket::netfilter()?;
        let mut batch = Batch::new(NETDEV, TABLE, TABLE_OWNER);
        join(&mut batch, pairs, has_resolver);
        owner.execute(&batch.to_bytes(), 1)?;
        Ok(Self { owner, has_resolver })
    }

    /// Joins one more.
    pub(super) fn join(&self, pair: [End; 2]) -> io::Result<()> {
        let mut batch = Batch::of(NETDEV, TABLE);
        join(&mut batch, &[pair], self.has_resolver);
        self.owner.execute(&batch.to_bytes(), 1)
    }

    /// Parts an interface, which may be gone, from its tap.
    pub(super) fn part(&self, interface: u32, tap: u32) -> io::Result<()> {
        let delete = |index: u32| {
            let mut batch = Batch::of(NETDEV, TABLE);
            batch.delete_chain(&index.to_string());
            self.owner.execute(&batch.to_bytes(), 1)
        };
        match delete(interface) {
            // It has gone with the interface.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        delete(tap)
    }
}

fn join(batch: &mut Batch<'_>, pairs: &[[End; 2]], has_resolver: bool) {
    for [interface, tap] in pairs {
        for ((name, index), to, exceptions) in [(interface, tap.1, has_resolver), (tap, interface.1, false)] {
            let chain = index.to_string();
            batch.chain(&chain, &Hook { kind: "filter", number: INGRESS, priority: 0, device: Some(name) });
            let target = immediate(FIRST, &to.to_ne_bytes());
            if exceptions {
                for rule in resolvers_own(&target) {
                    batch.rule(&chain, &rule);
                }
            }
            batch.rule(&chain, &[target, forward()]);
        }
    }
}

/// What is meant for sockets of the namespace on the host: answers of name servers, and, for the guest as well, answers to who
/// has an address.
fn resolvers_own(tap: &Expression) -> Vec<Vec<Expression>> {
    let both = |conditions: Vec<[Expression; 2]>| {
        let mut rule = conditions.concat();
        rule.extend([tap.clone(), duplicate(), accept()]);
        rule
    };
    let answers = |transport: u8| {
        let from = if_payload(TRANSPORT_HEADER, 0, Order::Equal, &PORT.to_be_bytes());
        let to = if_payload(TRANSPORT_HEADER, 2, Order::AtLeast, &FIRST_OWN_PORT.to_be_bytes());
        let mut rule = [if_meta(TRANSPORT, &[transport]), from, to].concat();
        rule.push(accept());
        rule
    };
    // ETH_P_ARP with ARPOP_REPLY; a neighbour advertisement.
    let arp = [if_meta(PROTOCOL, &[8, 6]), if_payload(NETWORK_HEADER, 6, Order::Equal, &[0, 2])];
    let advertisement = [if_meta(TRANSPORT, &[58]), if_payload(TRANSPORT_HEADER, 0, Order::Equal, &[136])];
    vec![both(arp.to_vec()), both(advertisement.to_vec()), answers(17), answers(6)]
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{attributes, parse};
    use super::*;

    const RULE: u16 = 0xa06;

    fn bytes(has_resolver: bool) -> Vec<u8> {
        let mut batch = Batch::new(NETDEV, TABLE, TABLE_OWNER);
        join(&mut batch, &[[("eth0".to_owned(), 7), ("runv0".to_owned(), 9)]], has_resolver);
        batch.to_bytes()
    }

    /// Of each rule, its chain and the names of its expressions.
    fn rules(has_resolver: bool) -> Vec<(String, Vec<String>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.strip_suffix(&[0]).unwrap().to_vec()).unwrap();
        let messages = parse(&bytes(has_resolver));
        let rules = messages.iter().filter(|message| message.kind == RULE);
        let rule = |body: &[u8]| {
            let found = attributes(&body[4..]);
            let value = |kind| found.iter().find(|(number, _)| *number == kind).unwrap().1.clone();
            let expressions = attributes(&value(4)).into_iter();
            let names = expressions.map(|(_, expression)| text(&attributes(&expression)[0].1));
            (text(&value(2)), names.collect())
        };
        rules.map(|message| rule(&message.body)).collect()
    }

    #[test]
    fn all_that_comes_in_at_one_end_goes_out_at_the_other() {
        let forward = |chain: &str| (chain.to_owned(), vec!["immediate".to_owned(), "fwd".to_owned()]);
        assert_eq!(rules(false), [forward("7"), forward("9")]);
    }

    #[test]
    fn answers_for_a_resolver_are_let_in_from_the_network_alone() {
        let with = rules(true);
        let (from_network, from_guest): (Vec<_>, Vec<_>) = with.iter().partition(|(chain, _)| chain == "7");
        assert_eq!(from_guest.len(), 1);
        let last = from_network.iter().map(|(_, names)| names.last().unwrap().as_str());
        assert_eq!(last.collect::<Vec<_>>(), ["immediate", "immediate", "immediate", "immediate", "fwd"]);
        let copies = from_network.iter().filter(|(_, names)| names.contains(&"dup".to_owned()));
        assert_eq!(copies.count(), 2, "who has an address is of interest to both");
    }

    #[test]
    fn an_answer_is_asked_for_once() {
        let bytes = bytes(true);
        let (mut rest, mut flags) = (&bytes[..], Vec::new());
        while let Some(header) = rest.first_chunk::<8>() {
            let [l0, l1, l2, l3, _, _, f0, f1] = *header;
            flags.push(u16::from_ne_bytes([f0, f1]));
            rest = &rest[u32::from_ne_bytes([l0, l1, l2, l3]) as usize..];
        }
        // NLM_F_ACK, of the last request before the end of the batch.
        let asking: Vec<_> = flags.iter().map(|flags| flags & 4 != 0).collect();
        assert_eq!(asking.iter().filter(|asks| **asks).count(), 1);
        assert!(asking[asking.len() - 2]);
    }
}
