//! Places in kernel structures, from the kernel's own type information.

use std::cell::RefCell;
use std::collections::HashMap;

use btf_rs::{Btf, BtfType, Type};

/// The type information, and what was found in it: to find a name all of them are gone through.
pub(super) struct Types {
    btf: Btf,
    structures: RefCell<HashMap<String, Option<u32>>>,
}

impl Types {
    pub(super) fn new(btf: Btf) -> Types {
        Types { btf, structures: RefCell::default() }
    }

    /// As it is.
    pub(super) fn btf(&self) -> &Btf {
        &self.btf
    }

    /// The id of a structure with members (not a forward declaration).
    fn structure(&self, name: &str) -> Option<u32> {
        if let Some(known) = self.structures.borrow().get(name) {
            return *known;
        }
        let found = structure(&self.btf, name);
        self.structures.borrow_mut().insert(name.to_owned(), found);
        found
    }
}

/// Offset in bytes of `path`, which is `struct.member` with any number of members of members, and members of unnamed
/// structures and unions found as C finds them. `None` if this kernel has no such thing.
pub(super) fn offset(types: &Types, path: &str) -> Option<u32> {
    let mut parts = path.split('.');
    let mut id = types.structure(parts.next()?)?;
    let mut offset = 0;
    for name in parts {
        let (bits, inner) = member(&types.btf, id, name)?;
        offset += bits;
        id = inner;
    }
    (offset % 8 == 0).then_some(offset / 8)
}

/// Size of a structure in bytes.
pub(super) fn size(types: &Types, name: &str) -> Option<u32> {
    let found = types.btf.resolve_type_by_id(types.structure(name)?).ok()?;
    if let Type::Struct(found) = found { u32::try_from(found.size()).ok() } else { None }
}

/// Whether the kernel has a BTF tracepoint of that name.
pub(super) fn has_tracepoint(types: &Types, name: &str) -> bool {
    types.btf.resolve_ids_by_name(&format!("btf_trace_{name}")).is_ok_and(|ids| !ids.is_empty())
}

/// The functions of that name: the id of each and what it gives and takes, as C writes it, without qualifiers and names.
pub(super) fn functions(types: &Types, name: &str) -> Vec<(u32, String)> {
    let ids = types.btf.resolve_ids_by_name(name).unwrap_or_default();
    ids.into_iter().filter_map(|id| Some((id, prototype(&types.btf, id)?))).collect()
}

/// What the function with that id gives and takes.
fn prototype(btf: &Btf, id: u32) -> Option<String> {
    let Type::Func(function) = btf.resolve_type_by_id(id).ok()? else { return None };
    let Type::FuncProto(prototype) = btf.resolve_type_by_id(function.get_type_id()?).ok()? else {
        return None;
    };
    let arguments = prototype.parameters.iter().map(|one| spell(btf, one.get_type_id().unwrap_or(0)));
    let arguments: Option<Vec<_>> = arguments.collect();
    let result = spell(btf, prototype.return_type_id())?;
    let space = if result.ends_with('*') { "" } else { " " };
    Some(format!("{result}{space}({})", arguments?.join(", ")))
}

/// A type as C writes it, without qualifiers; `None` if it has no name.
pub fn spell(btf: &Btf, id: u32) -> Option<String> {
    // Void has no entry of its own.
    if id == 0 {
        return Some("void".to_owned());
    }
    let found = btf.resolve_type_by_id(id).ok()?;
    if let Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) = &found {
        return spell(btf, inner.get_type_id().unwrap_or(0));
    }
    if let Type::TypeTag(inner) = &found {
        return spell(btf, inner.get_type_id().unwrap_or(0));
    }
    if let Type::Ptr(inner) = &found {
        let target = spell(btf, inner.get_type_id().unwrap_or(0))?;
        let space = if target.ends_with('*') { "" } else { " " };
        return Some(format!("{target}{space}*"));
    }
    if let Type::FuncProto(_) = &found {
        return Some("function".to_owned());
    }
    let name = btf.resolve_name(found.as_btf_type()?).ok()?;
    Some(match (&found, name.as_str()) {
        (_, "long int") => "long".to_owned(),
        (_, "long unsigned int") => "unsigned long".to_owned(),
        (Type::Struct(_) | Type::Fwd(_), name) => format!("struct {name}"),
        (_, name) => name.to_owned(),
    })
}

/// The value of a constant in an enumeration; `None` if the kernel has neither.
pub(super) fn constant(types: &Types, enumeration: &str, name: &str) -> Option<u32> {
    types.btf.resolve_types_by_name(enumeration).ok()?.iter().find_map(|found| {
        let Type::Enum(found) = found else { return None };
        let member = found
            .members
            .iter()
            .find(|member| types.btf.resolve_name(*member).is_ok_and(|found| found == name))?;
        Some(member.val())
    })
}

/// Whether the kernel has the eBPF helper with that name in `enum bpf_func_id`.
pub(super) fn has_helper(types: &Types, name: &str) -> bool {
    types.btf.resolve_types_by_name("bpf_func_id").is_ok_and(|found| {
        found.iter().any(|found| {
            let Type::Enum(found) = found else { return false };
            let mut names = found.members.iter().map(|member| types.btf.resolve_name(member));
            names.any(|member| member.is_ok_and(|member| member == name))
        })
    })
}

/// See [`Types::structure`].
fn structure(btf: &Btf, name: &str) -> Option<u32> {
    btf.resolve_ids_by_name(name).ok()?.into_iter().find(
        |id| matches!(btf.resolve_type_by_id(*id), Ok(Type::Struct(found)) if !found.members.is_empty()),
    )
}

/// Offset in bits and type of a member, looked for in unnamed members too.
fn member(btf: &Btf, id: u32, name: &str) -> Option<(u32, u32)> {
    let (Type::Struct(outer) | Type::Union(outer)) = plain(btf, id)? else {
        return None;
    };
    for member in &outer.members {
        let found = btf.resolve_name(member).unwrap_or_default();
        let inner = member.get_type_id()?;
        if found == name {
            return Some((member.bit_offset(), inner));
        }
        if found.is_empty()
            && let Some((bits, inner)) = self::member(btf, inner, name)
        {
            return Some((member.bit_offset() + bits, inner));
        }
    }
    None
}

/// The type behind typedefs and qualifiers.
fn plain(btf: &Btf, mut id: u32) -> Option<Type> {
    loop {
        let found = btf.resolve_type_by_id(id).ok()?;
        id = if let Type::Typedef(inner) = &found {
            inner.get_type_id()?
        } else if let Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) = &found {
            inner.get_type_id()?
        } else {
            return Some(found);
        };
    }
}
