//! Hand-made guests on the host's KVM: a few instructions each, in long mode, by the same tables and
//! registers as Linux.

use std::sync::{Arc, Mutex, mpsc};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::capabilities;
use super::exit::Buses;
use super::vcpu::{ExitReport, VcpuThreads};
use super::vm::Vm;
use crate::arch::x86_64::{layout, registers};
use crate::bus::{BusDevice, Flow};
use crate::memory::Memory;
use crate::platform::reset::{DebugExit, I8042};
use vmm::hypervisor::VmExit;

const ENTRY: u64 = 0x10_0000;
const MMIO: u64 = 0xd000_0000;
const TEST_PORT: u16 = 0x600;

/// Remembers writes and answers reads with 0x5a.
#[derive(Default)]
struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

impl BusDevice for Recorder {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        self.0.lock().unwrap().push((offset, data.to_vec()));
        Flow::Continue(())
    }
}

/// A machine with a device on each bus.
struct Guest {
    memory: Memory,
    vm: Vm,
    buses: Arc<Buses>,
    ports: Arc<Recorder>,
    mmio: Arc<Recorder>,
    cpus: u8,
}

/// The threads of a guest that runs.
struct Running {
    threads: VcpuThreads,
    exits: mpsc::Receiver<VmExit>,
}

impl Guest {
    /// A guest that runs `code`; `None`, and a line on the output, where KVM is not to be had.
    fn new(cpus: u8, code: &[u8]) -> Option<Self> {
        let kvm = match capabilities::open(cpus) {
            Ok(kvm) => kvm,
            Err(error) => {
                println!("skipped: cannot open /dev/kvm: {error}");
                return None;
            }
        };
        let memory = Memory::new(64).unwrap();
        for table in registers::start_tables() {
            memory.write(table.address, &table.bytes).unwrap();
        }
        memory.write(ENTRY, code).unwrap();
        let vm = Vm::new(&kvm, cpus, &memory).unwrap();
        let (ports, mmio) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        let mut buses = Buses::default();
        let mut port = |port: u16, device| buses.ports.insert(u64::from(port), 1, device).unwrap();
        port(layout::DEBUG_EXIT_PORT, Arc::new(DebugExit));
        port(layout::I8042_COMMAND_PORT, Arc::new(I8042));
        port(TEST_PORT, Arc::clone(&ports) as _);
        buses.mmio.insert(MMIO, 0x1000, Arc::clone(&mmio) as _).unwrap();
        Some(Self { memory, vm, buses: Arc::new(buses), ports, mmio, cpus })
    }

    fn start(&self) -> Running {
        let vcpus: Vec<_> = (0..self.cpus).map(|id| self.vm.create_vcpu(id).unwrap()).collect();
        vcpus[0].set_entry(ENTRY).unwrap();
        let (sender, exits) = mpsc::channel();
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let report = ExitReport { sender, wake: Arc::new(wake) };
        Running { threads: VcpuThreads::start(vcpus, &self.buses, &report).unwrap(), exits }
    }

    /// Runs the guest to its end.
    fn run(&self) -> VmExit {
        self.start().end()
    }

    fn word(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read(address, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }
}

impl Running {
    /// Waits for the end, and stops the vCPUs that did not bring it about.
    fn end(self) -> VmExit {
        let exit = self.exits.recv().unwrap();
        self.threads.pause();
        exit
    }
}

/// `out` to the debug exit port.
const SHUT_DOWN: [u8; 5] = [0x66, 0xba, 0x01, 0x05, 0xee]; // mov dx,0x501; out dx,al

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn port_accesses_reach_the_bus_and_the_exit_port_shuts_down() {
    let code = code(&[
        &[0x66, 0xba, 0x00, 0x06], // mov dx,0x600
        &[0xec],                   // in al,dx
        &[0xfe, 0xc0],             // inc al
        &[0xee],                   // out dx,al
        &[0x66, 0xba, 0x77, 0x07], // mov dx,0x777: nobody is there
        &[0xec],                   // in al,dx
        &[0x66, 0xba, 0x00, 0x06], // mov dx,0x600
        &[0xee],                   // out dx,al
        &SHUT_DOWN,
    ]);
    let Some(guest) = Guest::new(1, &code) else { return };
    assert_eq!(guest.run(), VmExit::Shutdown);
    assert_eq!(*guest.ports.0.lock().unwrap(), [(0, vec![0x5b]), (0, vec![0xff])]);
}

#[test]
fn mmio_accesses_reach_the_bus() {
    // The start's page tables end at 1 GiB; this maps the 4 GiB from 0xc000_0000 with one entry more.
    let code = code(&[
        &[0xbb, 0x00, 0x00, 0x00, 0xd0],       // mov ebx,0xd0000000
        &[0x8b, 0x43, 0x10],                   // mov eax,[rbx+0x10]
        &[0x89, 0x43, 0x20],                   // mov [rbx+0x20],eax
        &[0x66, 0xc7, 0x43, 0x30, 0x34, 0x12], // mov word [rbx+0x30],0x1234
        &SHUT_DOWN,
    ]);
    let Some(guest) = Guest::new(1, &code) else { return };
    map_gap(&guest.memory);
    assert_eq!(guest.run(), VmExit::Shutdown);
    assert_eq!(*guest.mmio.0.lock().unwrap(), [(0x20, vec![0x5a; 4]), (0x30, vec![0x34, 0x12])]);
}

/// Maps the GiB of the gap onto itself, by a second page directory.
fn map_gap(memory: &Memory) {
    const DIRECTORY: u64 = 0xc000;
    memory.write(layout::PDPT + 3 * 8, &(DIRECTORY | 3).to_le_bytes()).unwrap();
    let entries: Vec<u8> =
        (0..512_u64).flat_map(|page| ((0xc000_0000 + (page << 21)) | 0x83).to_le_bytes()).collect();
    memory.write(DIRECTORY, &entries).unwrap();
}

#[test]
fn the_keyboard_controller_resets() {
    let code = [0xb0, 0xfe, 0xe6, 0x64]; // mov al,0xfe; out 0x64,al
    let Some(guest) = Guest::new(1, &code) else { return };
    assert_eq!(guest.run(), VmExit::Reset);
}

#[test]
fn a_triple_fault_is_told_with_registers() {
    // No IDT entry is there, so a division by zero faults again and again.
    let code = [0xbb, 0xef, 0xbe, 0x00, 0x00, 0x31, 0xc9, 0xf7, 0xf1]; // mov ebx,0xbeef; xor ecx,ecx; div ecx
    let Some(guest) = Guest::new(1, &code) else { return };
    match guest.run() {
        VmExit::TripleFault { registers } => {
            assert!(registers.contains("rbx=0xbeef"), "{registers}");
            assert!(registers.contains("rip=0x100007"), "{registers}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn code_where_no_memory_is_ends_the_machine_with_registers() {
    let code = [0xbb, 0x00, 0x20, 0x00, 0xd0, 0xff, 0xe3]; // mov ebx,0xd0002000; jmp rbx
    let Some(guest) = Guest::new(1, &code) else { return };
    map_gap(&guest.memory);
    match guest.run() {
        VmExit::Failed { message } => assert!(message.contains("rip=0xd0002000"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_that_matches_an_ioeventfd_signals_it_and_leaves_no_trace_on_the_bus() {
    let code = code(&[
        &[0xbb, 0x50, 0x00, 0x00, 0xd0],       // mov ebx,0xd0000050
        &[0xc7, 0x03, 0x01, 0x00, 0x00, 0x00], // mov dword [rbx],1
        &[0xc7, 0x03, 0x02, 0x00, 0x00, 0x00], // mov dword [rbx],2
        &SHUT_DOWN,
    ]);
    let Some(guest) = Guest::new(1, &code) else { return };
    map_gap(&guest.memory);
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    guest.vm.connect_write(&kick, MMIO + 0x50, 1).unwrap();
    assert_eq!(guest.run(), VmExit::Shutdown);
    assert_eq!(kick.read().unwrap(), 1);
    assert_eq!(*guest.mmio.0.lock().unwrap(), [(0x50, vec![2, 0, 0, 0])]);
}

/// Instructions that make the local APIC take external interrupts from the PIC, and the PIC give vector
/// 0x20 for line 0 and let line 5 through; then an IDT with one gate, for line 5, at 0x2000.
fn interrupt_set_up(memory: &Memory, handler: u64) -> Vec<u8> {
    const IDT: u64 = 0x2000;
    const VECTOR: u64 = 0x25;
    let [a, b, ..] = handler.to_le_bytes();
    let [_, _, c, d, ..] = handler.to_le_bytes();
    let gate = [a, b, 0x10, 0, 0, 0x8e, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    memory.write(IDT + VECTOR * 16, &gate).unwrap();
    memory.write(0x1000, &[0xff, 0x0f]).unwrap();
    memory.write(0x1002, &IDT.to_le_bytes()).unwrap();
    code(&[
        &[0x0f, 0x01, 0x1c, 0x25, 0x00, 0x10, 0x00, 0x00], // lidt [0x1000]
        &[0xb0, 0x11, 0xe6, 0x20],                         // ICW1
        &[0xb0, 0x20, 0xe6, 0x21],                         // ICW2: vectors from 0x20
        &[0xb0, 0x04, 0xe6, 0x21],                         // ICW3
        &[0xb0, 0x01, 0xe6, 0x21],                         // ICW4
        &[0xb0, 0xdf, 0xe6, 0x21],                         // mask all but line 5
    ])
}

#[test]
fn an_irqfd_wakes_a_halted_vcpu_with_its_interrupt() {
    let Some(guest) = Guest::new(1, &[]) else { return };
    let handler = ENTRY + 0x100;
    let main = code(&[
        &interrupt_set_up(&guest.memory, handler),
        &[0x66, 0xba, 0x00, 0x06, 0xee], // mov dx,0x600; out dx,al: ready
        &[0xfb, 0xf4],                   // sti; hlt
        &[0xeb, 0xfd],                   // jmp hlt
    ]);
    guest.memory.write(ENTRY, &main).unwrap();
    let mark = [0xc7, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00, 0x55, 0x00, 0x00, 0x00]; // mov dword [0x3000],0x55
    guest.memory.write(handler, &code(&[&mark, &SHUT_DOWN])).unwrap();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    guest.vm.connect_interrupt(&line, 5).unwrap();
    let running = guest.start();
    // The line may be raised at any moment: the PIC keeps an edge until it is unmasked, but its set-up
    // forgets it. So wait until the guest has said that it is ready.
    while guest.ports.0.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    line.write(1).unwrap();
    assert_eq!(running.end(), VmExit::Shutdown);
    assert_eq!(guest.word(0x3000), 0x55);
}

#[test]
fn the_first_vcpu_starts_the_second_by_its_local_apic() {
    // The second starts in real mode at the page that the start-up interrupt names.
    const SECOND: u64 = 0x4000;
    let Some(guest) = Guest::new(2, &[]) else { return };
    map_gap(&guest.memory);
    let main = code(&[
        &[0xbb, 0x00, 0x00, 0xe0, 0xfe], // mov ebx,0xfee00000
        &[0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00], // enable the APIC: [rbx+0xf0] = 0x1ff
        &[0xc7, 0x83, 0x10, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01], // to APIC 1: [rbx+0x310] = 1 << 24
        &[0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00], // INIT: [rbx+0x300] = 0x4500
        &[0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x04, 0x46, 0x00, 0x00], // start-up at page 4: 0x4604
        &[0xf3, 0x90, 0xeb, 0xfc],       // pause; jmp
    ]);
    guest.memory.write(ENTRY, &main).unwrap();
    let second = code(&[
        &[0xba, 0x00, 0x06, 0xb0, 0x77, 0xee], // mov dx,0x600; mov al,0x77; out dx,al
        &[0xba, 0x01, 0x05, 0xee],             // mov dx,0x501; out dx,al
    ]);
    guest.memory.write(SECOND, &second).unwrap();
    assert_eq!(guest.run(), VmExit::Shutdown);
    assert_eq!(*guest.ports.0.lock().unwrap(), [(0, vec![0x77])]);
}

#[test]
fn a_paused_guest_stands_still_until_it_is_resumed() {
    // Counts at 0x3000 until something is written to 0x3004.
    let code = code(&[
        &[0xff, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00], // inc dword [0x3000]
        &[0x83, 0x3c, 0x25, 0x04, 0x30, 0x00, 0x00, 0x00], // cmp dword [0x3004],0
        &[0x74, 0xef],                               // je back
        &SHUT_DOWN,
    ]);
    let Some(guest) = Guest::new(1, &code) else { return };
    let running = guest.start();
    for _ in 0..20 {
        let before = guest.word(0x3000);
        while guest.word(0x3000) == before {
            std::thread::yield_now();
        }
        running.threads.pause();
        let stopped = guest.word(0x3000);
        for _ in 0..1000 {
            std::thread::yield_now();
            assert_eq!(guest.word(0x3000), stopped);
        }
        running.threads.resume();
    }
    guest.memory.write(0x3004, &[1]).unwrap();
    assert_eq!(running.end(), VmExit::Shutdown);
}
