//! The stack that the programs take, as kernels before Linux 6.13 count it: the frames of a chain of calls together, each of
//! them a multiple of 32 bytes (kernel/bpf/verifier.c, `check_max_stack_depth`). Newer kernels are more generous, so that a
//! program that takes too much would only be refused where the tests seldom run.

use std::collections::{BTreeMap, BTreeSet};

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// Bytes of stack that a program has with everything it calls: `MAX_BPF_STACK`.
const STACK: u32 = 512;
/// Frames that a chain of calls may have: `MAX_CALL_FRAMES`.
const FRAMES: usize = 8;

/// Operation codes: include/uapi/linux/bpf.h.
const CALL: u8 = 0x85;
const LOAD_64: u8 = 0x18;
const ADD_IMMEDIATE: u8 = 0x07;
const MOVE: u8 = 0xbf;
/// `src_reg` of a call of another function of the object, and of a load of one's address.
const PSEUDO_CALL: u8 = 1;
const PSEUDO_FUNC: u8 = 4;
const FRAME_POINTER: u8 = 10;

#[derive(Debug, Default)]
struct Function {
    frame: u32,
    calls: BTreeSet<String>,
}

/// What one instruction does to the register that points into the frame.
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
        let [code, registers, o0, o1, i0, i1, i2, i3] = bytes;
        Some(Self {
            code,
            destination: registers & 15,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            immediate: i32::from_le_bytes([i0, i1, i2, i3]),
        })
    }
}

/// The functions of an object by name, with what is taken of the stack and what is called.
fn functions(object: &[u8]) -> BTreeMap<String, Function> {
    let file: ElfFile64<'_> = ElfFile64::parse(object).expect("an ELF object");
    let named: BTreeMap<_, _> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0)
        .filter_map(|symbol| Some(((symbol.section_index()?.0, symbol.address()), symbol)))
        .collect();
    let mut functions = BTreeMap::new();
    for ((section_index, start), symbol) in &named {
        let section = file.section_by_index(SectionIndex(*section_index)).expect("the symbol's section");
        let code = section.data().expect("code");
        let relocations: BTreeMap<_, _> = section.relocations().collect();
        let callee = |at: u64, instruction: &Instruction| {
            let immediate = i64::from(instruction.immediate);
            // A call counts instructions from the next one; a load gives the address in bytes.
            let bytes = if instruction.code == CALL { (immediate + 1) * 8 } else { immediate };
            let (section, address) = match relocations.get(&at).map(|relocation| relocation.target()) {
                Some(RelocationTarget::Symbol(index)) => {
                    let target = file.symbol_by_index(index).expect("the relocation's symbol");
                    if target.kind() == SymbolKind::Section {
                        (target.section_index()?.0, bytes)
                    } else {
                        (target.section_index()?.0, i64::try_from(target.address()).ok()?)
                    }
                }
                Some(_) => return None,
                None => (*section_index, i64::try_from(at).ok()? + bytes),
            };
            named.get(&(section, u64::try_from(address).ok()?))
        };
        let mut function = Function::default();
        // Copies of the frame pointer, to which an offset is added next.
        let mut copies = BTreeSet::new();
        for at in (*start..*start + symbol.size()).step_by(8) {
            let Some(instruction) =
                usize::try_from(at).ok().and_then(|at| Instruction::read(code.get(at..)?))
            else {
                break;
            };
            let class = instruction.code & 7;
            // Loads (1) have their address in the source, stores (2, 3) in the destination.
            let based = (class == 1 && instruction.source == FRAME_POINTER)
                || (matches!(class, 2 | 3) && instruction.destination == FRAME_POINTER);
            if based {
                function.frame = function.frame.max(u32::from(instruction.offset.min(0).unsigned_abs()));
            }
            match instruction.code {
                MOVE if instruction.source == FRAME_POINTER => {
                    copies.insert(instruction.destination);
                    continue;
                }
                ADD_IMMEDIATE if copies.contains(&instruction.destination) => {
                    function.frame = function.frame.max(instruction.immediate.min(0).unsigned_abs());
                }
                CALL | LOAD_64
                    if instruction.source == PSEUDO_CALL && instruction.code == CALL
                        || instruction.source == PSEUDO_FUNC && instruction.code == LOAD_64
                        || instruction.code == LOAD_64
                            && relocations.contains_key(&at)
                            && callee(at, &instruction).is_some() =>
                {
                    let callee = callee(at, &instruction).expect("a call leads to a function");
                    function.calls.insert(callee.name().expect("a name").to_owned());
                }
                _ => {}
            }
            if matches!(class, 0 | 1 | 4 | 7) {
                copies.remove(&instruction.destination);
            }
        }
        functions.insert(symbol.name().expect("a name").to_owned(), function);
    }
    functions
}

/// A chain of calls, the outermost first, with what each takes of the stack.
type Chain = Vec<String>;

/// Of the chains of calls from `name` the one that takes most of the stack, and how much, and the longest one.
fn deepest(functions: &BTreeMap<String, Function>, name: &str) -> ((u32, Chain), Chain) {
    let function = &functions[name];
    let (mut worst, mut longest) = ((0, Vec::new()), Vec::new());
    for (most, long) in function.calls.iter().map(|callee| deepest(functions, callee)) {
        worst = if most.0 > worst.0 { most } else { worst };
        longest = if long.len() > longest.len() { long } else { longest };
    }
    let this = format!("{name} {}", function.frame);
    worst.0 += function.frame.max(1).next_multiple_of(32);
    worst.1.insert(0, this.clone());
    longest.insert(0, this);
    (worst, longest)
}

fn check(object: &[u8]) {
    let functions = functions(object);
    let called: BTreeSet<_> = functions.values().flat_map(|function| &function.calls).collect();
    let programs: Vec<_> = functions.keys().filter(|name| !called.contains(name)).collect();
    assert!(programs.len() > 10, "{programs:?}");
    for program in programs {
        let ((bytes, chain), longest) = deepest(&functions, program);
        println!("{program:<28} {bytes:>4} bytes, {} frames: {}", longest.len(), chain.join(" -> "));
        assert!(bytes <= STACK, "{program} takes {bytes} bytes of stack: {chain:?}");
        assert!(longest.len() <= FRAMES, "{program} calls {} deep: {longest:?}", longest.len());
    }
}

#[test]
fn no_program_takes_more_stack_than_older_kernels_give() {
    check(super::OBJECT);
}

#[test]
fn no_program_that_reads_by_loads_takes_more_stack_than_kernels_give() {
    check(super::LOADS);
}

#[test]
fn no_plain_program_takes_more_stack_than_older_kernels_give() {
    check(super::PLAIN);
}
