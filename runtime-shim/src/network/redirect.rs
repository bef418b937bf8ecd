//! What comes in at an interface goes out at its tap, and the other way round, before the host's own stack sees it.
//!
//! The rules are nf_tables' (`fwd` at the ingress of devices) in a table with the flag `owner` (Linux 5.12): such a table
//! is nobody else's to change, and goes when the socket that has made it closes, whatever ends the process. What
//! tc has for this purpose (an ingress qdisc with filters) would stay on the interface of a killed sandbox, which may outlive it.

use std::io;

use super::netlink::Socket;
use super::nf_tables::{
    Batch, Expression, FIRST, Hook, NETDEV, Order, TABLE_OWNER, Unit, accept, drop, duplicate, forward,
    if_meta, if_over, if_payload, immediate,
};
use super::resolver::{FIRST_OWN_PORT, PORT};
use crate::config::RateLimit;

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
    has_table: bool,
    passage: Passage,
}

/// What passes, and how much of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passage {
    /// Whether a name server in the namespace asks others by the interfaces.
    pub(super) has_resolver: bool,
    /// At each interface.
    pub(super) receive_limit: RateLimit,
    /// At each tap.
    pub(super) send_limit: RateLimit,
}

/// An interface, by name and number.
pub(super) type End = (String, u32);

impl Redirect {
    /// Joins nothing yet, in the calling thread's network namespace.
    pub(super) fn new(passage: Passage) -> io::Result<Self> {
        Ok(Self { owner: Socket::netfilter()?, has_table: false, passage })
    }

    /// Joins the interfaces of each pair, of which the first is the namespace's and the second the tap.
    /// `AlreadyExists` and `PermissionDenied` mean that another sandbox has joined some.
    pub(super) fn join(&mut self, pairs: &[[End; 2]]) -> io::Result<()> {
        let mut batch =
            if self.has_table { Batch::of(NETDEV, TABLE) } else { Batch::new(NETDEV, TABLE, TABLE_OWNER) };
        join(&mut batch, pairs, &self.passage);
        self.owner.execute(&batch.to_bytes(), 1)?;
        self.has_table = true;
        Ok(())
    }

    /// Whether a name server in the namespace can ask others.
    pub(super) fn has_resolver(&self) -> bool {
        self.passage.has_resolver
    }

    /// Lets a name server in the namespace ask others, by the interfaces of these pairs, all that are joined.
    pub(super) fn let_resolver_ask(&mut self, pairs: &[[End; 2]]) -> io::Result<()> {
        let passage = Passage { has_resolver: true, ..self.passage };
        if !pairs.is_empty() {
            let mut batch = Batch::of(NETDEV, TABLE);
            pairs.iter().flatten().for_each(|(_, index)| batch.delete_chain(&index.to_string()));
            join(&mut batch, pairs, &passage);
            self.owner.execute(&batch.to_bytes(), 1)?;
        }
        self.passage = passage;
        Ok(())
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

fn join(batch: &mut Batch<'_>, pairs: &[[End; 2]], passage: &Passage) {
    let Passage { has_resolver, receive_limit, send_limit } = *passage;
    for [interface, tap] in pairs {
        for ((name, index), to, limit, exceptions) in
            [(interface, tap.1, receive_limit, has_resolver), (tap, interface.1, send_limit, false)]
        {
            let chain = index.to_string();
            batch.chain(&chain, &Hook { kind: "filter", number: INGRESS, priority: 0, device: Some(name) });
            for excess in over(limit) {
                batch.rule(&chain, &[excess, drop()]);
            }
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

/// Conditions, one for each rate.
fn over(limit: RateLimit) -> impl Iterator<Item = Expression> {
    let packets = limit.packets.map(|rate| if_over(Unit::Packets, rate.per_second, rate.burst));
    packets.into_iter().chain(limit.bytes.map(|rate| if_over(Unit::Bytes, rate.per_second, rate.burst)))
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
    use super::super::netlink::{attribute, attributes, nested, parse};
    use super::*;
    use crate::config::Rate;

    const RULE: u16 = 0xa06;

    fn bytes(passage: Passage) -> Vec<u8> {
        let mut batch = Batch::new(NETDEV, TABLE, TABLE_OWNER);
        join(&mut batch, &[[("eth0".to_owned(), 7), ("runv0".to_owned(), 9)]], &passage);
        batch.to_bytes()
    }

    fn resolver(has_resolver: bool) -> Passage {
        Passage { has_resolver, ..Default::default() }
    }

    /// Of each rule, its chain, and the name and attributes of each expression.
    fn rules_with_attributes(passage: Passage) -> Vec<(String, Vec<Named>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.strip_suffix(&[0]).unwrap().to_vec()).unwrap();
        let messages = parse(&bytes(passage));
        let rules = messages.iter().filter(|message| message.kind == RULE);
        let rule = |body: &[u8]| {
            let found = attributes(&body[4..]);
            let value = |kind| found.iter().find(|(number, _)| *number == kind).unwrap().1.clone();
            let named = |expression: &[u8]| {
                let parts = attributes(expression);
                (text(&parts[0].1), attributes(&parts[1].1))
            };
            let expressions = attributes(&value(4)).into_iter();
            (text(&value(2)), expressions.map(|(_, expression)| named(&expression)).collect())
        };
        rules.map(|message| rule(&message.body)).collect()
    }

    type Named = (String, Vec<(u16, Vec<u8>)>);

    fn rules(has_resolver: bool) -> Vec<(String, Vec<String>)> {
        let names = |expressions: Vec<Named>| expressions.into_iter().map(|(name, _)| name).collect();
        let all = rules_with_attributes(resolver(has_resolver)).into_iter();
        all.map(|(chain, expressions)| (chain, names(expressions))).collect()
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
    fn what_exceeds_a_rate_is_dropped_before_anything_else() {
        let (packets, bytes) =
            (Rate { per_second: 3, burst: 5 }, Rate { per_second: 1 << 33, burst: 65_536 });
        let passage = Passage {
            has_resolver: true,
            receive_limit: RateLimit { bytes: Some(bytes), packets: Some(packets) },
            send_limit: RateLimit { bytes: None, packets: Some(packets) },
        };
        let all = rules_with_attributes(passage);
        let of =
            |chain: &str| all.iter().filter(|rule| rule.0 == chain).map(|rule| &rule.1).collect::<Vec<_>>();
        // Rate and unit are of 64 bits, burst, type and flags (over) of 32, all big-endian.
        let limit = |rate: u64, burst: u32, unit: u32| {
            let wide = |number: u64| number.to_be_bytes().to_vec();
            let [burst, unit, over] = [burst, unit, 1].map(|number: u32| number.to_be_bytes().to_vec());
            ("limit".to_owned(), vec![(1, wide(rate)), (2, wide(1)), (3, burst), (4, unit), (5, over)])
        };
        let (from_network, from_guest) = (of("7"), of("9"));
        assert_eq!(from_network[0][0], limit(3, 5, 0));
        assert_eq!(from_network[1][0], limit(1 << 33, 65_536, 1));
        assert_eq!((from_network.len(), from_guest.len()), (7, 2));
        assert_eq!(from_guest[0][0], limit(3, 5, 0));
        for rule in [from_network[0], from_network[1], from_guest[0]] {
            assert_eq!(rule[1..], [("immediate".to_owned(), attributes(&drop_verdict()))]);
        }
    }

    /// NFTA_IMMEDIATE_DREG is the verdict, NFTA_IMMEDIATE_DATA has NF_DROP.
    fn drop_verdict() -> Vec<u8> {
        let code = nested(2, &[nested(2, &[attribute(1, [0; 4])])]);
        [attribute(1, [0; 4]), code].concat()
    }

    #[test]
    fn an_answer_is_asked_for_once() {
        let bytes = bytes(resolver(true));
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
