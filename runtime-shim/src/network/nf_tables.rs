//! Requests of nf_tables (linux/netfilter/nf_tables.h): a table with its chains and rules, in one batch that is done as a whole
//! or not at all. What they are for is the business of who builds them.

use super::netlink::{ACK, APPEND, CREATE, REQUEST, attribute, message, nested, text};

/// `NFNL_MSG_BATCH_BEGIN` and `_END`, `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;

/// `NFT_MSG_*`.
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const DELETE_CHAIN: u16 = SUBSYSTEM << 8 | 5;

/// `NLM_F_EXCL`.
const EXCLUSIVE: u16 = 0x200;

/// `NFPROTO_*`.
pub(super) const NETDEV: u8 = 5;
pub(super) const IPV4: u8 = 2;

/// `NFT_TABLE_F_OWNER`.
pub(super) const TABLE_OWNER: u32 = 2;

/// `NFT_REG_VERDICT`, and registers of 16 bytes.
const VERDICT: u32 = 0;
pub(super) const FIRST: u32 = 1;
pub(super) const SECOND: u32 = 2;

/// `NF_DROP` and `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `NFT_LIMIT_F_INV`.
const OVER: u32 = 1;

/// `NFT_NAT_DNAT`.
const DNAT: u32 = 1;

/// An expression of a rule.
pub(super) type Expression = Vec<u8>;

/// Where a chain hangs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook<'a> {
    /// `filter` or `nat`.
    pub(super) kind: &'a str,
    /// `NF_NETDEV_*` or `NF_INET_*`.
    pub(super) number: u32,
    /// Who comes first.
    pub(super) priority: i32,
    /// At one interface alone.
    pub(super) device: Option<&'a str>,
}

/// A table that is being put together.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    family: u8,
    table: &'a str,
    /// Kind, flags and body of each request.
    requests: Vec<(u16, u16, Vec<u8>)>,
}

impl<'a> Batch<'a> {
    /// Begins with a new table, which must not be there yet.
    pub(super) fn new(family: u8, table: &'a str, flags: u32) -> Self {
        let body = [text(1, table), number(2, flags)].concat();
        Self { family, table, requests: vec![(NEW_TABLE, CREATE | EXCLUSIVE, body)] }
    }

    /// About a table that is there.
    pub(super) fn of(family: u8, table: &'a str) -> Self {
        Self { family, table, requests: Vec::new() }
    }

    /// Takes a chain away, with its rules.
    pub(super) fn delete_chain(&mut self, name: &str) {
        let body = [text(1, self.table), text(3, name)].concat();
        self.requests.push((DELETE_CHAIN, 0, body));
    }

    /// A chain.
    pub(super) fn chain(&mut self, name: &str, hook: &Hook<'_>) {
        let mut place = vec![number(1, hook.number), attribute(2, hook.priority.to_be_bytes())];
        place.extend(hook.device.map(|device| text(3, device)));
        let body = [text(1, self.table), text(3, name), nested(4, &place), text(7, hook.kind)];
        self.requests.push((NEW_CHAIN, CREATE, body.concat()));
    }

    /// A rule at the end of a chain.
    pub(super) fn rule(&mut self, chain: &str, expressions: &[Expression]) {
        let body = [text(1, self.table), text(2, chain), nested(4, expressions)];
        self.requests.push((NEW_RULE, CREATE | APPEND, body.concat()));
    }

    /// As the kernel takes it. The last request asks for an acknowledgement; an error comes unasked, and first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let frame = |kind| message(kind, REQUEST, &header(0, SUBSYSTEM));
        let mut bytes = frame(BATCH_BEGIN);
        for (index, (kind, flags, body)) in self.requests.iter().enumerate() {
            let ack = if index + 1 == self.requests.len() { ACK } else { 0 };
            let body = [header(self.family, 0), body.clone()].concat();
            bytes.extend(message(*kind, REQUEST | flags | ack, &body));
        }
        bytes.extend(frame(BATCH_END));
        bytes
    }
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> Vec<u8> {
    [&[family, 0][..], &resource.to_be_bytes()].concat()
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, value.to_be_bytes())
}

fn expression(name: &str, attributes: &[Vec<u8>]) -> Expression {
    nested(1, &[text(1, name), nested(2, attributes)])
}

/// Puts `value` into a register.
pub(super) fn immediate(register: u32, value: &[u8]) -> Expression {
    expression("immediate", &[number(1, register), nested(2, &[attribute(1, value)])])
}

/// Lets a packet pass to the host's stack.
pub(super) fn accept() -> Expression {
    verdict(ACCEPT)
}

/// Ends a packet.
pub(super) fn drop() -> Expression {
    verdict(DROP)
}

fn verdict(code: u32) -> Expression {
    let verdict = nested(2, &[number(1, code)]);
    expression("immediate", &[number(1, VERDICT), nested(2, &[verdict])])
}

/// What a rate is of: `NFT_LIMIT_*`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    Packets = 0,
    Bytes = 1,
}

/// Ends the rule for packets that are within a rate.
pub(super) fn if_over(unit: Unit, per_second: u64, burst: u32) -> Expression {
    let second = attribute(2, 1u64.to_be_bytes());
    let rate = attribute(1, per_second.to_be_bytes());
    expression("limit", &[rate, second, number(3, burst), number(4, unit as u32), number(5, OVER)])
}

/// Ends the rule for packets of which a property (`NFT_META_*`) is not `value`.
pub(super) fn if_meta(key: u32, value: &[u8]) -> [Expression; 2] {
    let load = expression("meta", &[number(1, FIRST), number(2, key)]);
    [load, compare(Order::Equal, value)]
}

/// Ends the rule for packets whose bytes from `offset` of the header of a layer (`NFT_PAYLOAD_*`) on are not so.
pub(super) fn if_payload(layer: u32, offset: u32, order: Order, value: &[u8]) -> [Expression; 2] {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let place = [number(1, FIRST), number(2, layer), number(3, offset), number(4, length)];
    [expression("payload", &place), compare(order, value)]
}

/// `NFT_CMP_*`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// The value.
    Equal = 0,
    /// The value, or more, of a number of the network's byte order.
    AtLeast = 5,
}

fn compare(order: Order, value: &[u8]) -> Expression {
    expression("cmp", &[number(1, FIRST), number(2, order as u32), nested(3, &[attribute(1, value)])])
}

/// Sends a packet out at the interface whose number is in the first register.
pub(super) fn forward() -> Expression {
    expression("fwd", &[number(1, FIRST)])
}

/// Sends a copy of a packet there.
pub(super) fn duplicate() -> Expression {
    expression("dup", &[number(2, FIRST)])
}

/// Leads a packet to the address in the first register and the port in the second.
pub(super) fn destination() -> Expression {
    let family = number(2, IPV4.into());
    expression("nat", &[number(1, DNAT), family, number(3, FIRST), number(5, SECOND)])
}
