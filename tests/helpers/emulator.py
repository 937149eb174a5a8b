"""Run PTX on the CPU, in numpy: every thread of a launch at once, one instruction at a time.

It knows the instructions that the kernels use and refuses others. It is stricter than a GPU: a load or
store outside of what was allocated, or not aligned to its width, is an error with its line; registers
and allocations start as garbage; warps must be whole at shuffles and reductions.

Threads that part at a branch meet again because the lowest program counter goes first.
"""

from __future__ import annotations

import re

import numpy as np

from helpers.ptx_text import Entry, Instruction, PtxError, parse

GARBAGE = 0xDEADBEEFDEADBEEF
BITS = {"8": 8, "16": 16, "32": 32, "64": 64}


class Memory:
    """Device memory: allocations with unallocated bytes between them."""

    BASE = 0x7F0000000000

    def __init__(self, size: int = 1 << 24) -> None:
        size = -(-size // 256) * 256
        self.bytes = np.full(size, 0xCD, np.uint8)
        self.allocated = np.zeros(size, bool)
        self._next = 256

    def put(self, array: np.ndarray, misalign: int = 0) -> int:
        """Copy an array in; its address (256-byte aligned, plus ``misalign``)."""
        start = self._next + misalign
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.bytes[start : start + data.size] = data
        self.allocated[start : start + data.size] = True
        self._next = (start + data.size + 511) // 256 * 256
        if self._next > self.bytes.size:
            raise PtxError("the emulator's memory is full")
        return self.BASE + start

    def get(self, address: int, like: np.ndarray) -> np.ndarray:
        """Copy an array out."""
        start = address - self.BASE
        return self.bytes[start : start + like.nbytes].view(like.dtype).reshape(like.shape).copy()


def _bf16(values: np.ndarray) -> np.ndarray:
    """fp32 -> bf16 bits, round half to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor}
LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


class Launch:
    """One launch of an entry; ``run`` does it."""

    def __init__(
        self, entry: Entry, memory: Memory, grid: tuple[int, ...], block: tuple[int, ...], arguments: list
    ) -> None:
        self.entry, self.memory = entry, memory
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        per_block, blocks = int(np.prod(block)), int(np.prod(grid))
        if per_block % 32:
            raise PtxError("blocks of whole warps only")
        self.count = per_block * blocks
        index = np.arange(self.count, dtype=np.uint64)
        thread, number = index % np.uint64(per_block), index // np.uint64(per_block)
        self.special = {}
        for axis, letter in enumerate("xyz"):
            inner, outer = int(np.prod(block[:axis])), int(np.prod(grid[:axis]))
            self.special[f"%tid.{letter}"] = thread // np.uint64(inner) % np.uint64(block[axis])
            self.special[f"%ctaid.{letter}"] = number // np.uint64(outer) % np.uint64(grid[axis])
            self.special[f"%ntid.{letter}"] = np.full(self.count, block[axis], np.uint64)
            self.special[f"%nctaid.{letter}"] = np.full(self.count, grid[axis], np.uint64)
        self.block_of = number.astype(np.int64)
        self.shared = np.full((blocks, -(-max(entry.shared_bytes, 1) // 8) * 8), 0xCD, np.uint8)
        self.registers = {name: np.full(self.count, GARBAGE, np.uint64) for name in entry.widths}
        if len(arguments) != len(entry.parameters):
            raise PtxError(f"{len(arguments)} arguments for {len(entry.parameters)} parameters")
        self.parameters = {}
        for (name, size), value in zip(entry.parameters, arguments, strict=True):
            if np.asarray(value).nbytes != size:
                raise PtxError(f"parameter {name} has {size} bytes, the argument {np.asarray(value).nbytes}")
            raw = np.asarray(value).reshape(1).view(np.uint8)
            self.parameters[name] = np.uint64(int.from_bytes(raw.tobytes(), "little"))
        self.steps = 0

    def run(self) -> None:
        counter = np.zeros(self.count, np.int64)
        alive = np.ones(self.count, bool)
        waiting = np.zeros(self.count, bool)
        with np.errstate(all="ignore"):
            while alive.any():
                ready = alive & ~waiting
                if not ready.any():
                    waiting[:] = False
                    continue
                at = int(counter[ready].min())
                mask = ready & (counter == at)
                if at >= len(self.entry.code):
                    raise PtxError("ran past the end")
                instruction = self.entry.code[at]
                if instruction.guard:
                    mask_true = self.registers[instruction.guard].astype(bool) ^ instruction.negated
                    counter[mask & ~mask_true] = at + 1
                    mask = mask & mask_true
                    if not mask.any():
                        continue
                counter[mask] = at + 1
                operation = instruction.name[0]
                if operation == "bra":
                    counter[mask] = self.entry.labels[instruction.operands[0]]
                elif operation == "ret":
                    alive[mask] = False
                elif operation == "bar":
                    waiting[mask] = True
                else:
                    try:
                        self._execute(instruction, mask)
                    except PtxError as error:
                        raise PtxError(f"{error} in: {instruction.text}") from error
                self.steps += 1
                if self.steps > 100_000:
                    raise PtxError("does not end")

    # values ------------------------------------------------------------------------------------

    def _raw(self, operand: str) -> np.ndarray:
        """64 raw bits of a register, special register, shared name or number, a thread each."""
        if operand in self.registers:
            return self.registers[operand]
        if operand in self.special:
            return self.special[operand]
        if operand in self.entry.shared:
            return np.full(self.count, self.entry.shared[operand], np.uint64)
        if re.fullmatch(r"0[fF][0-9A-Fa-f]{8}", operand):
            return np.full(self.count, int(operand[2:], 16), np.uint64)
        if re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|\d+)U?", operand):
            return np.full(self.count, int(operand.rstrip("U"), 0) & (2**64 - 1), np.uint64)
        raise PtxError(f"unknown operand {operand}")

    def _value(self, operand: str, kind: str) -> np.ndarray:
        """An operand as the type ``kind`` (u32, s64, f32, f16, bf16, b16, pred)."""
        raw = self._raw(operand)
        if kind == "pred":
            return raw.astype(bool)
        if kind == "bf16":
            return ((raw & np.uint64(0xFFFF)) << np.uint64(16)).astype(np.uint32).view(np.float32)
        width = BITS[kind.lstrip("busf")]
        unsigned = raw.astype(f"u{width // 8}")
        return unsigned.view({"f": "f", "s": "i"}.get(kind[0], "u") + str(width // 8))

    def _set(self, register: str, value: np.ndarray, mask: np.ndarray) -> None:
        """Write a register where ``mask``; narrower values are zero- or sign-extended by their type."""
        if register not in self.registers:
            raise PtxError(f"undeclared register {register}")
        if value.dtype.kind == "f":
            value = value.view(f"u{value.dtype.itemsize}")
        width = self.entry.widths[register]
        raw = value.astype(np.int64).view(np.uint64) if value.dtype.kind == "i" else value.astype(np.uint64)
        if width < 64:
            raw = raw & np.uint64((1 << width) - 1)
        self.registers[register][mask] = raw[mask]

    # memory ------------------------------------------------------------------------------------

    def _address(self, operand: str) -> np.ndarray:
        base, _, offset = operand.strip("[] ").partition("+")
        return self._raw(base.strip()) + np.uint64(int(offset or 0) & (2**64 - 1))

    def _place(self, space: str, operand: str, width: int, total: int, mask: np.ndarray) -> np.ndarray:
        """Byte offsets of an access of ``total`` bytes, checked, for the threads of ``mask``."""
        address = self._address(operand)[mask]
        if (address % np.uint64(total)).any():
            raise PtxError(f"an address is not a multiple of {total}")
        if space == "global":
            offset = address.astype(np.int64) - Memory.BASE
            if ((offset < 0) | (offset + total > self.memory.bytes.size)).any():
                raise PtxError("an address is nowhere in memory")
            if not all(self.memory.allocated[offset + byte].all() for byte in range(total)):
                raise PtxError("an access outside of the allocations")
            return offset
        offset = address.astype(np.int64)
        if (offset + total > self.entry.shared_bytes).any():
            raise PtxError("an access outside of shared memory")
        return offset + self.block_of[mask] * self.shared.shape[1]

    def _bytes(self, space: str) -> np.ndarray:
        return self.memory.bytes if space == "global" else self.shared.reshape(-1)

    @staticmethod
    def _vector(operand: str) -> list[str]:
        return [o.strip() for o in operand.strip("{} ").split(",")]

    def _load(self, i: Instruction, mask: np.ndarray) -> None:
        kind, space = i.name[-1], i.name[1]
        width = BITS[kind.lstrip("busf")] // 8
        targets = self._vector(i.operands[0])
        place = self._place(space, i.operands[1], width, width * len(targets), mask)
        memory = self._bytes(space)
        for number, target in enumerate(targets):
            raw = np.zeros((place.size, width), np.uint8)
            for byte in range(width):
                raw[:, byte] = memory[place + number * width + byte]
            value = np.zeros(self.count, f"u{width}")
            value[mask] = raw.reshape(-1).view(f"u{width}")
            self._set(target, value.view(f"i{width}") if kind[0] == "s" else value, mask)

    def _store(self, i: Instruction, mask: np.ndarray) -> None:
        kind, space = i.name[-1], i.name[1]
        width = BITS[kind.lstrip("busf")] // 8
        values = self._vector(i.operands[1])
        place = self._place(space, i.operands[0], width, width * len(values), mask)
        memory = self._bytes(space)
        for number, register in enumerate(values):
            raw = np.ascontiguousarray(self._raw(register).astype(f"u{width}")[mask]).view(np.uint8).reshape(-1, width)
            for byte in range(width):
                memory[place + number * width + byte] = raw[:, byte]

    def _reduce(self, i: Instruction, mask: np.ndarray) -> None:
        space, kind = i.name[1], i.name[-1]
        if i.name[2] != "add":
            raise PtxError("red other than add")
        width = BITS[kind[1:]] // 8
        place = self._place(space, i.operands[0], width, width, mask)
        np.add.at(self._bytes(space).view(f"u{width}"), place // width, self._value(i.operands[1], kind)[mask])

    def _atom(self, i: Instruction, mask: np.ndarray) -> None:
        """Additions in the order of the threads: each gets what was there before its own."""
        space, kind = i.name[1], i.name[-1]
        if i.name[-2] != "add":
            raise PtxError("atom other than add")
        width = BITS[kind[1:]] // 8
        cells = self._bytes(space).view(f"u{width}")
        place, values = self._place(space, i.operands[1], width, width, mask) // width, self._value(i.operands[2], kind)
        before = np.zeros(self.count, f"u{width}")
        for thread, cell in zip(np.flatnonzero(mask), place, strict=True):
            before[thread] = cells[cell]
            cells[cell] += values[thread].astype(cells.dtype)
        self._set(i.operands[0], before, mask)

    # arithmetic --------------------------------------------------------------------------------

    def _warps(self, mask: np.ndarray) -> None:
        whole = mask.reshape(-1, 32)
        if not (whole.all(1) | ~whole.any(1)).all():
            raise PtxError("a warp is not whole")

    def _execute(self, i: Instruction, mask: np.ndarray) -> None:
        operation, kind, o = i.name[0], i.name[-1], i.operands
        if operation == "ld" and i.name[1] == "param":
            self._set(o[0], np.full(self.count, self.parameters[o[1].strip("[]")], np.uint64), mask)
        elif operation == "ld":
            self._load(i, mask)
        elif operation == "st":
            self._store(i, mask)
        elif operation == "red":
            self._reduce(i, mask)
        elif operation == "atom":
            self._atom(i, mask)
        elif operation == "membar":
            pass  # every store is seen at once
        elif operation == "mov" and o[0].startswith("{"):
            for number, target in enumerate(self._vector(o[0])):
                self._set(target, self._raw(o[1]) >> np.uint64(16 * number), mask)
        elif operation == "mov" and o[1].startswith("{"):
            parts = self._vector(o[1])
            step = BITS[kind[1:]] // len(parts)
            low = np.uint64((1 << step) - 1)
            self._set(o[0], sum((self._raw(p) & low) << np.uint64(step * n) for n, p in enumerate(parts)), mask)
        elif operation in ("mov", "cvta"):
            self._set(o[0], self._raw(o[1]), mask)
        elif operation == "shfl":
            distance, clamp, members = (self._value(operand, "u32") for operand in o[2:])
            if i.name[1:3] != ["sync", "bfly"] or (clamp[mask] != 31).any() or (members[mask] != 0xFFFFFFFF).any():
                raise PtxError("unknown shuffle")
            self._warps(mask)
            source = np.arange(self.count) ^ np.where(mask, distance, 0)
            self._set(o[0].partition("|")[0], self._raw(o[1])[source], mask)
        elif operation == "redux":
            self._warps(mask)
            total = self._value(o[1], kind).reshape(-1, 32).sum(1, dtype=np.uint32)
            self._set(o[0], np.repeat(total, 32), mask)
        elif operation == "setp":
            self._compare(i, mask)
        elif operation == "selp":
            self._set(o[0], np.where(self._raw(o[3]).astype(bool), self._raw(o[1]), self._raw(o[2])), mask)
        elif operation == "cvt":
            self._convert(i, mask)
        elif operation in LOGIC or operation == "not":
            a = self._raw(o[1])
            self._set(o[0], ~a if operation == "not" else LOGIC[operation](a, self._raw(o[2])), mask)
        else:
            self._set(o[0], self._arithmetic(operation, i, kind, o[1:]), mask)

    def _compare(self, i: Instruction, mask: np.ndarray) -> None:
        o, kind = i.operands, i.name[-1]
        a, b = self._value(o[1], kind), self._value(o[2], kind)
        result = np.isnan(a) | np.isnan(b) if i.name[1] == "nan" else COMPARE[i.name[1]](a, b)
        if len(o) == 4:
            result = LOGIC[i.name[2]](result, self._raw(o[3]).astype(bool))
        self._set(o[0], result.astype(np.uint64), mask)

    def _convert(self, i: Instruction, mask: np.ndarray) -> None:
        o, to, of = i.operands, i.name[-2], i.name[-1]
        if to in ("f16x2", "bf16x2"):
            halves = [self._value(operand, "f32") for operand in o[1:]]
            high, low = (
                (_bf16(h) if to[0] == "b" else h.astype(np.float16).view(np.uint16)).astype(np.uint64) for h in halves
            )
            self._set(o[0], (high << np.uint64(16)) | low, mask)
            return
        value = self._value(o[1], of)
        whole = next((WHOLE[part] for part in i.name[1:-2] if part in WHOLE), None)
        if of[0] == "f" and whole:
            value = whole(value)
        if to == "bf16":
            self._set(o[0], _bf16(value), mask)
        elif to[0] == "f":
            self._set(o[0], value.astype(f"f{int(to[1:]) // 8}"), mask)
        else:
            self._set(o[0], value.astype(("i" if to[0] == "s" else "u") + str(BITS[to[1:]] // 8)), mask)

    def _arithmetic(self, operation: str, i: Instruction, kind: str, o: list[str]) -> np.ndarray:
        if operation == "prmt":
            pool = self._raw(o[0]) & np.uint64(0xFFFFFFFF) | (self._raw(o[1]) << np.uint64(32))
            picks = int(o[2], 16)
            picked = [(pool >> np.uint64(8 * (picks >> (4 * n) & 7))) & np.uint64(255) for n in range(4)]
            return sum(byte << np.uint64(8 * n) for n, byte in enumerate(picked))
        if operation == "bfi":
            start, length = int(o[2]), int(o[3])
            field_mask = np.uint64(((1 << length) - 1) << start)
            return (self._raw(o[1]) & ~field_mask) | ((self._raw(o[0]) << np.uint64(start)) & field_mask)
        if operation in ("shl", "shr"):
            amount = self._raw(o[1]) & np.uint64(0xFFFFFFFF)
            value = self._value(o[0], kind)
            return (np.left_shift if operation == "shl" else np.right_shift)(value, amount.astype(value.dtype))
        a = [self._value(operand, kind) for operand in o]
        wide = f"{a[0].dtype.kind}{2 * a[0].dtype.itemsize}" if "wide" in i.name else a[0].dtype
        if operation == "mul" and "hi" in i.name:
            return (a[0].astype(f"{kind[0].replace('s', 'i')}8") * a[1] >> 32).astype(a[0].dtype)
        if operation == "mul":
            return a[0].astype(wide) * a[1].astype(wide)
        if operation == "mad":
            third = self._value(o[2], f"{kind[0]}{2 * int(kind[1:])}") if "wide" in i.name else a[2]
            return a[0].astype(wide) * a[1].astype(wide) + third
        if operation == "fma":
            return (a[0].astype(np.float64) * a[1] + a[2]).astype(np.float32)
        if operation == "rcp":
            return (1.0 / a[0].astype(np.float64)).astype(np.float32)
        if operation == "div" and kind[0] == "f":
            return (a[0].astype(np.float64) / a[1]).astype(np.float32)
        if operation == "sqrt":
            return np.sqrt(a[0])
        if operation in ("div", "rem") and kind[0] == "s":  # towards zero, where numpy goes down
            quotient = np.abs(a[0]) // np.abs(a[1]) * np.sign(a[0]) * np.sign(a[1])
            return quotient if operation == "div" else a[0] - quotient * a[1]
        if operation == "rsqrt":
            return (1.0 / np.sqrt(a[0].astype(np.float64))).astype(np.float32)
        if operation == "ex2":
            return np.exp2(a[0].astype(np.float64)).astype(np.float32)
        two = {"add": np.add, "sub": np.subtract, "div": np.floor_divide, "rem": np.remainder}
        if operation in ("max", "min"):
            return (
                getattr(np, "f" + operation)(a[0], a[1])
                if kind[0] == "f"
                else getattr(np, operation + "imum")(a[0], a[1])
            )
        if operation in two and (kind[0] != "f" or operation in ("add", "sub")):
            return two[operation](a[0], a[1])
        if operation in ("neg", "abs"):
            return (np.negative if operation == "neg" else np.abs)(a[0])
        raise PtxError(f"unknown instruction {'.'.join(i.name)}")


class EmulatedKernels:
    """Stands in for the loader's ``KernelSet``: launches on CPU tensors, through the emulator.

    Only the elements of the tensors that are handed over count as allocated: a kernel that touches the
    neighbouring channels of a slice, or the gap between rows, is caught.
    """

    def __init__(self, texts: list[str]) -> None:
        self.parsed = {name: entry for text in texts for name, entry in parse(text).items()}
        self.entries = tuple(self.parsed)
        self.launches: list[str] = []

    def launch(self, entry: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple) -> None:
        import torch

        self.launches.append(entry)
        storages = {
            a.untyped_storage().data_ptr(): a.untyped_storage() for a in arguments if isinstance(a, torch.Tensor)
        }
        views = {at: torch.empty(0, dtype=torch.uint8).set_(storage).numpy() for at, storage in storages.items()}
        memory = Memory(sum(v.size + 1024 for v in views.values()) + 4096)
        addresses = {}
        for at, view in views.items():
            addresses[at] = memory.put(view)
            start = addresses[at] - Memory.BASE
            memory.allocated[start : start + view.size] = False
        packed = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                base = addresses[argument.untyped_storage().data_ptr()]
                size = argument.element_size()
                elements = torch.arange(argument.untyped_storage().nbytes() // size)
                used = (
                    elements.as_strided(argument.shape, argument.stride(), argument.storage_offset())
                    .reshape(-1)
                    .numpy()
                )
                for byte in range(size):
                    memory.allocated[base - Memory.BASE + used * size + byte] = True
                packed.append(np.uint64(base + argument.storage_offset() * size))
            else:
                packed.append(np.uint64(0) if argument is None else argument)
        Launch(self.parsed[entry], memory, grid, block, packed).run()
        for at, view in views.items():
            view[:] = memory.get(addresses[at], view)
