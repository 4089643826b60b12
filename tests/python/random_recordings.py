"""Random HDF5 recordings with the storage, types, links and attributes that HDF5 offers, mostly by h5py's low-level interface,
and what h5py reads from them. check_recordings.py compares it with what emg-cache makes of them.
"""

import ctypes
import re
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5f, h5p, h5s, h5t, h5z

LIBRARY = ctypes.CDLL(str(next((Path(h5py.__file__).parent.parent / "h5py.libs").glob("libhdf5-*"))))
APART, TABLE = {"emg": "a/emg", "joint_angles": "b/ang"}, {"emg": "emg", "joint_angles": "ang"}
SCALED = {"emg_scale": 2e-6, "joint_angle_scale": 0.0005}
LAYOUTS = {
    "apart": APART,
    "apart_time": APART | {"time": "c/t", "attributes": "meta"},
    "apart_scaled": APART | SCALED | {"emg_offset": -3.5, "joint_angle_offset": 0.1, "attributes": "a/emg"},
    "table": TABLE | {"table": "tab"},
    "table_scaled": TABLE | SCALED | {"table": "g/tab", "time": "t", "attributes": "g/tab"},
}
LABELS, WIDTHS = ("user", "session", "stage", "side"), {"emg": 4, "ang": 3}
ORDERS = {"le": h5t.ORDER_LE, "be": h5t.ORDER_BE}
# Where an object is made, and the links that lead to it: soft ones, `=` hard ones, `>` into another file.
LINKS = {
    "hard": ("{path}", {}),
    "second hard": ("real/{name}", {"{path}": "=real/{name}"}),
    "soft absolute": ("real/{name}", {"{path}": "/real/{name}"}),
    "soft relative": ("{path}_itself", {"{path}": "./{name}_itself"}),
    "soft chain": (
        "real/{name}",
        {"{path}": "/links/1{name}", "links/1{name}": "2{name}", "links/2{name}": "/./real/{name}"},
    ),
    "soft group": ("{group}_real/{name}", {"{group}": "/{group}_real/"}),
    "soft group and soft": ("real/{name}", {"{group}": "{group}_real", "{group}_real/{name}": "/real/{name}"}),
}
BAD_LINKS = {
    "dangling soft": {"{path}": "/nowhere/x"},
    "dangling group": {"{group}": "nowhere"},
    "soft loop": {"{path}": "/links/1{name}", "links/1{name}": "/{path}"},
    "external": {"{path}": ">/real/{name}"},
    "external missing": {"{path}": ">/nowhere"},
    "soft to external": {"{path}": "/links/1{name}", "links/1{name}": ">/real/{name}"},
    "external group": {"{group}": ">/real"},
}


# ---------------------------------------------------------------- types


def number(
    base: h5t.TypeID, size: int, bits: int, order: str, offset: int = 0, exponent: int = 0, bias: int = 0
) -> h5t.TypeID:
    kind = base.copy()
    if exponent:
        kind.set_fields(bits - 1, bits - 1 - exponent, exponent, 0, bits - 1 - exponent)
        kind.set_ebias(bias)
    kind.set_precision(bits)
    kind.set_size(size)
    kind.set_offset(offset)
    kind.set_order(ORDERS[order])
    return kind


DOUBLE = h5t.IEEE_F64LE
IEEE = {f"f{n}{order}": getattr(h5t, f"IEEE_F{8 * n}{order.upper()}") for n in (2, 4, 8) for order in ORDERS}
FLOATS = {
    **{f"bfloat16 {order}": number(DOUBLE, 2, 16, order, 0, 8, 127) for order in ORDERS},
    "float of 1 byte": number(DOUBLE, 1, 8, "le", 0, 4, 7),
    "float of 3 bytes": number(DOUBLE, 3, 24, "le", 0, 7, 63),
    "float of 6 bytes": number(DOUBLE, 6, 48, "be", 0, 11, 1023),
    "f4 of bias 63": number(DOUBLE, 4, 32, "le", 0, 8, 63),
    "f8 of bias 511": number(DOUBLE, 8, 64, "be", 0, 11, 511),
    "39 bits of 8 bytes": number(DOUBLE, 8, 39, "le", 0, 8, 127),
    "long double": h5t.LDOUBLE_LE,
    "long double be": h5t.LDOUBLE_BE,
    "float128": h5t.IEEE_F128LE,
    "float128 be": h5t.IEEE_F128BE,
}
POINTERS = {
    "variable text": h5t.py_create(h5py.string_dtype(), logical=True),
    "variable sequence": h5t.vlen_create(h5t.IEEE_F32LE),
    "reference": h5t.STD_REF_OBJ,
    "region reference": h5t.STD_REF_DSETREG,
}
NO_NUMBERS = POINTERS | {
    "fixed text": h5t.py_create(np.dtype("S8")),
    "compound": h5t.py_create(np.dtype([("x", "<f4"), ("y", "<i2", (2,))])),
    "enum": h5t.py_create(h5py.enum_dtype({"LEFT": 3, "RIGHT": 7}, ">i2"), logical=True),
    "bitfield": h5t.STD_B16BE,
    "bool": h5t.py_create(np.dtype(bool), logical=True),
    "time": h5t.UNIX_D32LE,
    "opaque": h5t.py_create(h5py.opaque_dtype(np.dtype("M8[ns]")), logical=True),
}
OTHER_FIELDS = NO_NUMBERS | {name: FLOATS[name] for name in ("bfloat16 le", "long double", "float128 be")}
OTHER_FIELDS |= {"half": h5t.IEEE_F16LE, "20 bits of 3 bytes": number(h5t.STD_I64LE, 3, 20, "be", 3)}


def memory(kind: h5t.TypeID) -> h5t.TypeID:
    """The memory type that holds a type as float64 or exact integers; anything else as it is."""
    if kind.get_class() == h5t.ARRAY:
        return h5t.array_create(memory(kind.get_super()), kind.get_array_dims())
    if kind.get_class() == h5t.INTEGER:
        return h5t.NATIVE_INT64 if kind.get_sign() == h5t.SGN_2 else h5t.NATIVE_UINT64
    return h5t.NATIVE_DOUBLE if kind.get_class() == h5t.FLOAT else kind


def column(dataset: h5d.DatasetID, field: str | None) -> tuple[h5t.TypeID, h5t.TypeID]:
    """The memory type of a dataset, or of one of its fields, and that of its elements."""
    kind = dataset.get_type()
    kind = memory(kind.get_member_type(kind.get_member_index(field.encode())) if field else kind)
    element = kind.get_super() if kind.get_class() == h5t.ARRAY else kind
    return (compound([(field, 0, kind)], kind.get_size()) if field else kind), element


def compound(members: list[tuple[str, int, h5t.TypeID]], size: int) -> h5t.TypeID:
    kind = h5t.create(h5t.COMPOUND, size)
    for name, offset, member in members:
        kind.insert(name.encode(), offset, member)
    return kind


def write(dataset: h5d.DatasetID, columns: dict, at: int = 0) -> None:
    """Writes columns (values [rows, width] by field; the field of a plain dataset is None) from row `at`."""
    for field, values in columns.items():
        space, rank = dataset.get_space(), len(dataset.shape)
        space.select_hyperslab((at, 0)[:rank], values.shape[:rank])
        dataset.write(
            h5s.create_simple(values.shape[:rank]), space, np.ascontiguousarray(values), column(dataset, field)[0]
        )


def read(dataset: h5d.DatasetID, field: str | None, width: int) -> np.ndarray:
    kind, element = column(dataset, field)
    values = np.zeros((dataset.shape[0], width), element.dtype)
    dataset.read(h5s.create_simple(dataset.shape), dataset.get_space(), values, kind)
    return values


def create(file: h5py.File, path: str, kind: h5t.TypeID, shape: tuple, creation=None, limit=None) -> h5d.DatasetID:
    group, _, name = path.rpartition("/")
    space = h5s.create_simple(shape, limit) if shape else h5s.create(h5s.SCALAR)
    return h5d.create((file.require_group(group) if group else file).id, name.encode(), kind, space, creation)


def add_filter(creation: h5p.PropDCID, name: str, flags: int, values: tuple) -> None:
    if name == "szip":
        creation.set_szip(h5z.SZIP_NN_OPTION_MASK, 8)
    else:
        creation.set_filter(getattr(h5z, "FILTER_" + name.upper()), flags, values)


# ---------------------------------------------------------------- one random file


class Recording:
    """A random file: what it is (`about`), why it must be or may be refused, its labels, and the factors it gives."""

    def __init__(self, folder: Path, seed: int, index: int):
        self.random, self.index, self.name = np.random.default_rng([seed, index]), index, f"r{index:05}"
        self.layout_name = self.pick(*LAYOUTS)
        self.layout = LAYOUTS[self.layout_name]
        self.table, self.declared = self.layout.get("table"), "emg_scale" in self.layout
        self.target, self.rows = self.pick("emg", "ang"), int(self.random.integers(60, 401))
        flaws = [*BAD_LINKS] * 2 + ["virtual", "external storage"] * 2 + ["not finite", "type", "label", "rate"] * 2
        flaws += ["rank", "scalar", "width", "no rows", "missing", "rate text"] + ["lengths"] * (not self.table)
        flaws += ["time"] * ("time" in self.layout) + ["no factor"] * (2 * (not self.declared))
        self.flaw = self.pick(*flaws) if self.chance(0.4) else None
        self.about = {"layout": self.layout_name} | ({"flaw": self.flaw} if self.flaw else {})
        self.reason = self.may_refuse = None
        self.labels, self.factors = dict.fromkeys(LABELS), {}
        self.complete = self.flaw == "not finite"  # whether every row must be written
        self.path = folder / self.layout_name / (self.name + self.pick(".h5", ".hdf5"))
        self.elsewhere = folder / "elsewhere" / f"{self.name}.h5"
        self.make()

    def pick(self, *options):
        return options[self.random.integers(len(options))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def note(self, what: str, value: str) -> None:
        self.about.setdefault(what, []).append(value)

    def refuse(self, flaw: str, reason: str) -> bool:
        self.reason = reason if self.flaw == flaw else self.reason
        return self.flaw == flaw

    def make(self) -> None:
        creation, access = h5p.create(h5p.FILE_CREATE), h5p.create(h5p.FILE_ACCESS)
        low, block = self.pick("EARLIEST", "EARLIEST", "V18", "V110", "V112", "V114", "LATEST"), self.pick(
            0, 0, 0, 512, 1024, 4096
        )
        access.set_libver_bounds(getattr(h5f, f"LIBVER_{low}"), h5f.LIBVER_LATEST)
        creation.set_userblock(block)
        option = self.pick(
            *[None] * 3,
            "track order",
            "pages",
            "addresses of 4 bytes",
            "shared messages",
            "dense attributes",
            "alignment",
        )
        if option == "track order":
            creation.set_link_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
            creation.set_attr_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
        elif option == "pages" and block != 512:
            creation.set_file_space_strategy(h5f.FSPACE_STRATEGY_PAGE, self.chance(0.5), 1)
            creation.set_file_space_page_size(512 if block else self.pick(512, 4096))
        elif option == "addresses of 4 bytes":
            creation.set_sizes(4, 8)
        elif option == "shared messages":
            assert LIBRARY.H5Pset_shared_mesg_nindexes(ctypes.c_int64(creation.id), 1) >= 0
            assert LIBRARY.H5Pset_shared_mesg_index(ctypes.c_int64(creation.id), 0, 0x182A, 40) >= 0  # all kinds
        elif option == "dense attributes":
            creation.set_attr_phase_change(0, 0)
        elif option == "alignment" and not block:
            access.set_alignment(1, 333)
        self.note("file", f"libver {low}; user block {block}; {option}")
        with h5py.File(h5f.create(bytes(self.path), h5f.ACC_TRUNC, creation, access)) as file:
            self.fill(file)
        if block:
            with open(self.path, "r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file \x00\xff")
        assert (self.reason is None) == (self.flaw is None), self.about

    def fill(self, file: h5py.File) -> None:
        if self.chance(0.3):
            file["other/file"], file["other/none"] = h5py.ExternalLink("nowhere.h5", "/x"), h5py.SoftLink("/nowhere")
            file.create_virtual_dataset("other/virtual", h5py.VirtualLayout((3,), "f4"))
            self.note("file", "other objects with bad links")
        attributes = self.layout.get("attributes", "/")
        self.linked = self.table or self.layout["emg" if self.target == "emg" else "joint_angles"]
        self.linked = "meta" if attributes == "meta" and self.chance(0.3) else self.linked
        if self.table:
            self.place(file, self.table, self.make_table)
        else:
            self.place(file, "a/emg", lambda *to: self.make_plain(*to, "emg"))
            self.place(file, "b/ang", lambda *to: self.make_plain(*to, "ang"))
            if "time" in self.layout:
                file[self.layout["time"]] = self.time_stamps()
        if attributes == "meta":
            self.place(file, "meta", lambda file, path: self.write_labels(file.create_group(path)))
        elif self.reason is None:
            self.write_labels(file[attributes])

    def place(self, file: h5py.File, path: str, make) -> None:
        """Makes an object that `path` leads to, over links of some kind."""
        group, _, name = path.rpartition("/")
        kind = self.pick(*LINKS) if self.flaw != "missing" and self.chance(0.5) else "hard"
        if self.flaw in BAD_LINKS and path == self.linked:
            kind = self.flaw
            self.reason = "another file" if "external" in kind else "link"
        if not group:
            kind = {
                "soft group": "hard",
                "soft group and soft": "hard",
                "external group": "external",
                "dangling group": "soft loop",
            }.get(kind, kind)
            self.reason = {"soft loop": "link"}.get(kind, self.reason)
        self.note("link", f"{path} {kind}")
        filled = {"path": path, "group": group, "name": name}
        real, links = LINKS.get(kind) or ("real/{name}", BAD_LINKS[kind])
        if kind in LINKS:
            make(file, real.format(**filled))
        elif "external" in kind and "missing" not in kind:
            with h5py.File(self.elsewhere, "w") as other:
                make(other, real.format(**filled))
        for link, to in ((link.format(**filled), to.format(**filled)) for link, to in links.items()):
            external = h5py.ExternalLink(f"../elsewhere/{self.name}.h5", to[1:])
            file[link] = file[to[1:]] if to[0] == "=" else external if to[0] == ">" else h5py.SoftLink(to)

    # -------------------------------------------------------------- rows

    def element(self, role: str) -> tuple[str, h5t.TypeID]:
        """A random type of numbers, and its name."""
        no_factor = role == self.target and self.refuse(
            "no factor", "emg_scale" if role == "emg" else "joint_angle_scale"
        )
        may_be_integer = self.declared or not (self.table or self.flaw == "no factor")
        name, kind = self.pick(*IEEE.items())
        if no_factor or (may_be_integer and not self.complete and self.chance(0.35)):
            signed, size, order = self.pick("u", "i"), int(self.random.integers(1, 9)), self.pick(*ORDERS)
            bits = self.pick(8 * size, int(self.random.integers(4 * size + 1, 8 * size + 1)))
            offset = int(self.random.integers(0, 8 * size - bits + 1))
            kind = number(h5t.STD_U64LE if signed == "u" else h5t.STD_I64LE, size, bits, order, offset)
            name = f"{signed}{size}{order}" + f" {bits} bits at {offset}" * (bits < 8 * size)
        elif self.chance(0.25) and not self.complete:
            name, kind = self.pick(*FLOATS.items())
        self.note(role, name)
        return name, kind

    def values(self, role: str, kind: h5t.TypeID) -> np.ndarray:
        random, rows, width = self.random, self.rows, WIDTHS[role]
        if kind.get_class() == h5t.INTEGER:
            dtype, unused = memory(kind).dtype, 64 - kind.get_precision()
            limits = np.iinfo(dtype)
            values = random.integers(limits.min >> unused, limits.max >> unused, (rows, width), dtype, endpoint=True)
        else:
            values = random.normal(size=(rows, width)) * self.pick(1, 1, 30)
            values = np.round(values * 4) / 4 + (role == "emg") if self.chance(0.4) else values
        if role == "emg" and self.refuse("not finite", "not finite"):
            bad = self.pick(np.nan, 1e300, -1e47) if kind.get_size() == 8 else self.pick(np.nan, np.inf, -np.inf)
            values[random.integers(rows), random.integers(width)] = bad
        for _ in range(self.pick(0, 0, 1, 3) if role == "ang" else 0):
            values[random.integers(rows) :][: self.pick(1, 5)] = 0
            if kind in IEEE.values():
                values[random.integers(rows), random.integers(width)] = self.pick(np.nan, np.inf, -np.inf)
        if role == "ang" and kind in IEEE.values() and self.chance(0.15):
            values[:, random.integers(width)] = np.nan
            self.complete = True
            self.note("ang", "a column of NaN")
        return values

    def time_stamps(self) -> np.ndarray:
        period, dtype, name = self.pick(
            *[(1 / 2000, "f8", "s")] * 2, (500, "i8", "us"), (500_000, "i8", "ns"), (1, "i8", "samples")
        )
        if self.refuse("time", "time"):
            period, dtype, name = 1 / 1000, "f8", "s"
        self.note("time", name)
        start = self.pick(0, 12.5, 1.7e9) * self.random.random() if name == "s" else self.random.integers(10**6)
        return (np.arange(self.rows) * period + start).astype(self.pick("<", ">") + dtype)

    def make_plain(self, file: h5py.File, path: str, role: str) -> None:
        name, kind = self.element(role)
        rows, width, values = self.rows, WIDTHS[role], self.values(role, kind)
        shapes = {
            "rank": (rows, width, 2),
            "scalar": (),
            "width": (rows, width + 1),
            "no rows": (0, width),
            "type": (rows, width),
            "lengths": (rows + 300 + rows // 50, width),
            "missing": None,
        }
        if role == self.target and self.flaw in shapes:
            self.reason = f"expected|{role}"
            if self.flaw != "missing":
                create(file, path, self.bad_type() if self.flaw == "type" else kind, shapes[self.flaw])
        elif role != self.target or not self.strange_storage(file, path, np.dtype(">f4"), (rows, width)):
            array = self.chance(0.15)
            self.note(role, "array elements") if array else None
            kind = h5t.array_create(kind, (width,)) if array else kind
            dataset = self.store(file, path, role, kind, (rows,) if array else (rows, width), {None: values}, name)
            self.write_factor(h5py.Dataset(dataset), role, name[0] in "ui")

    def bad_type(self) -> h5t.TypeID:
        name, kind = self.pick(*NO_NUMBERS.items())
        self.note("bad type", name)
        return kind

    def write_factor(self, dataset: h5py.Dataset, role: str, integers: bool) -> None:
        """NWB's factor and offset: needed for integers, and ignored if the layout declares them."""
        factors = {
            "conversion": self.pick(1e-6, 0.001, 2.0, 0.1) if integers else self.pick(1e-3, -2.0, 10),
            "offset": self.pick(0.5, -1.25, 3),
        }
        for key, value in factors.items():
            needed = integers and key == "conversion" and not self.declared
            if (needed or self.chance(0.25)) and not (self.flaw == "no factor" and role == self.target):
                dtype = self.pick("<f8", "<f4", ">f8") if isinstance(value, float) else self.pick("<i4", ">u2", "<f4")
                dataset.attrs.create(key, value, shape=self.pick((), (1,)), dtype=dtype)
                self.note("factor", f"{key} {value} {dtype}{' ignored' * self.declared}")
                self.factors[role, key] = float(np.asarray(value, dtype))

    def make_table(self, file: h5py.File, path: str) -> None:
        fields, columns, bad = {}, {}, None
        for role, width in WIDTHS.items():
            kind = self.element(role)[1]
            columns[role] = self.values(role, kind)
            if role == self.target and self.flaw in ("type", "width", "missing"):
                self.reason, bad = f"expected|{role}", (self.rows,)
                kind, width = self.bad_type() if self.flaw == "type" else kind, width + (self.flaw == "width")
            if role != self.target or self.flaw != "missing":
                fields[role] = h5t.array_create(kind, (width,))
        if "time" in self.layout:
            stamps, self.complete = self.time_stamps(), True
            fields["t"], columns["t"] = (
                h5t.py_create(stamps.dtype),
                stamps.astype(stamps.dtype.newbyteorder("="))[:, None],
            )
        others = [str(name) for name in self.random.choice(list(OTHER_FIELDS), self.pick(0, 1, 1, 2, 4), replace=False)]
        for name in others:
            fields[name] = kind = OTHER_FIELDS[name]
            self.note("other field", name)
            if name == "variable text":
                columns[name] = np.array([[f"row {i}"] for i in range(self.rows)], object)
            elif name in NO_NUMBERS and name not in POINTERS:
                columns[name] = self.random.integers(
                    0, 2 if name == "bool" else 256, (self.rows, kind.get_size()), np.uint8
                )
            elif name not in POINTERS:
                columns[name] = self.random.integers(0, 99, (self.rows, 1)).astype(memory(kind).dtype)
        members, size = [], self.pick(0, 0, 3, 8)
        for name in map(str, self.random.permutation(list(fields))):
            members.append((name, size, fields[name]))
            size += fields[name].get_size() + self.pick(0, 0, 0, 1, 4, 7)
        shapes = {"rank": (self.rows, 2), "scalar": (), "no rows": (0,)}
        if self.flaw in shapes:
            self.reason, bad = "expected|tab", shapes[self.flaw]
        plain = np.dtype([("emg", "<f4", (4,)), ("ang", "<f4", (3,)), ("t", "<f8")])
        if bad is not None:
            create(file, path, compound(members, size), bad)
        elif not self.strange_storage(file, path, plain, (self.rows,)):
            name = "pointers" if set(others) & set(POINTERS) else "time" if "time" in others else "table"
            self.store(file, path, "table", compound(members, size), (self.rows,), columns, name)

    # -------------------------------------------------------------- storage

    def strange_storage(self, file: h5py.File, path: str, dtype: np.dtype, shape: tuple) -> bool:
        """Whether the rows were left to other datasets or files."""
        if self.refuse("virtual", "virtual"):
            layout, inside = h5py.VirtualLayout(shape, dtype), self.chance(0.5)
            layout[...] = h5py.VirtualSource("." if inside else f"../elsewhere/{self.name}.h5", "source", shape)
            if inside:
                file.create_dataset("source", shape, dtype)[...] = np.ones((), dtype)
            file.create_virtual_dataset(path, layout)
        elif self.refuse("external storage", "another file|outside"):
            raw, half = self.elsewhere.with_suffix(".raw"), int(np.prod(shape)) * dtype.itemsize // 2
            files = self.pick([(raw, 7, h5f.UNLIMITED)], [(raw, 0, half), (raw, half, h5f.UNLIMITED)])
            file.create_dataset(path, shape, dtype, external=files)[...] = np.ones((), dtype)
        return self.flaw in ("virtual", "external storage")

    def store(
        self, file, path: str, role: str, kind: h5t.TypeID, shape: tuple, columns: dict, name: str
    ) -> h5d.DatasetID:
        """Makes a dataset that is stored in some way, and writes its rows in some way. `name` is that of the elements."""
        creation, random, rows, said = h5p.create(h5p.DATASET_CREATE), self.random, self.rows, []
        pointers, array = name == "pointers", kind.get_class() == h5t.ARRAY
        storage = self.pick("contiguous", "never written", "compact", *["chunked"] * 5)
        if storage == "never written" and (pointers or array or self.complete):
            storage = "contiguous"
        elif storage == "compact" and kind.get_size() * np.prod(shape) > 60_000:
            storage = "chunked"
        filled = (storage == "never written" or self.chance(0.4)) and not (pointers or array)
        if filled:
            value = np.zeros((), [("emg", "f8", (4,)), ("ang", "f8", (3,))])
            value["emg"], value["ang"] = 3, 2
            creation.set_fill_value(value if role == "table" else np.array(3.0))
            said.append("fill value")
        if self.chance(0.1):
            kind = kind.copy()
            kind.commit(file.require_group("types").id, role.encode())
            said.append("named type")
        limit, start, how, filters, chunk = shape, shape, "whole", [], []
        early = self.chance(0.25)
        creation.set_obj_track_times(self.chance(0.5))
        if storage == "compact":
            creation.set_layout(h5d.COMPACT)
        elif early:
            creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        if storage == "chunked":
            grow = self.pick("fixed", "fixed", "in rows", "in all", "to twice")
            limit = {
                "fixed": shape,
                "in rows": (None, *shape[1:]),
                "in all": (None,) * len(shape),
                "to twice": (2 * rows, *shape[1:]),
            }[grow]
            least, most = 1 + rows // 40, rows if grow == "fixed" else 2 * rows
            chunk = [int(self.pick(rows, random.integers(least, most + 1), random.integers(least, 1 + rows // 4)))]
            chunk += [
                self.pick(width, int(random.integers(1, width + 1 + 2 * (grow == "in all")))) for width in shape[1:]
            ]
            creation.set_chunk(tuple(chunk))
            filters = self.filters(kind, name, chunk) if self.chance(0.75) else []
            partial = not early and self.chance(0.15)
            if partial:
                assert LIBRARY.H5Pset_chunk_opts(ctypes.c_int64(creation.id), ctypes.c_uint(2)) >= 0
            hows = ["whole", "whole", "pieces"] + ["missing"] * (not self.complete) + ["shrunk"] * (grow != "fixed")
            hows += ["extended"] * (grow != "fixed" and not self.complete)
            # HDF5 itself mistakes the mask if such a chunk replaces one of the same size.
            twice = [each[0] for each in filters].count("shuffle") > 1
            how = self.pick(*hows, *["direct", "direct"] * (not (partial or twice or early or pointers)))
            start = {"extended": (rows - rows // 4, *shape[1:]), "shrunk": (rows + rows // 3, *shape[1:])}.get(
                how, shape
            )
            said += (
                ["grows " + grow, how]
                + ["parts of rows"] * (chunk[1:] != list(shape[1:]))
                + ["partial unfiltered"] * partial
            )
            said += [f"{each[0]} {('mandatory', 'optional')[each[1]]}" for each in filters] + ["several filters"] * (
                len(filters) > 1
            )
            said += ["a filter twice"] * (len({each[0] for each in filters}) < len(filters))
            self.may_refuse = "szip|filter" if "szip optional" in said else self.may_refuse
        if storage != "never written" and how in ("whole", "pieces") and not pointers and self.chance(0.1):
            creation.set_fill_time(h5d.FILL_TIME_NEVER)
        for each in filters:
            add_filter(creation, *each)
        dataset = create(file, path, kind, start, creation, tuple(h5s.UNLIMITED if n is None else n for n in limit))
        parts = {"missing": [(rows // 8, rows - rows // 3)], "extended": [(0, start[0])]}.get(how, [(0, rows)])
        if how == "pieces":
            step = int(random.integers(7, 50))
            parts = [(int(at), int(at) + step) for at in random.permutation(np.arange(0, rows, step))]
        if how == "direct":
            self.write_chunks(dataset, kind, filters, filled and role != "table", columns, chunk)
        elif storage != "never written":
            for first, end in parts:
                write(dataset, {field: values[first:end] for field, values in columns.items()}, first)
        if start != shape:
            dataset.set_extent(shape)
        self.note("storage", "; ".join([storage] + ["early"] * early + said))
        return dataset

    def filters(self, kind: h5t.TypeID, name: str, chunk: list[int]) -> list[tuple[str, int, tuple]]:
        """Filters (name, optional, values) in a random order, but first those that need whole elements."""
        number = kind.get_class() in (h5t.INTEGER, h5t.FLOAT) and re.fullmatch("f[48].e|[ui][1248].e", name)
        filters = []
        if number and not self.complete and self.chance(0.4):
            filters = [("scaleoffset", 0, (0, 4) if name[0] == "f" else (2, 0))]
        elif number and np.prod(chunk) >= 32 and self.chance(0.25):
            filters = [("szip", 1, ())]
        elif name not in ("pointers", "time") and self.chance(0.25):
            filters = [("nbit", self.pick(0, 1), ())]
        for _ in range(self.pick(0, 1, 1, 2, 3)):
            each = self.pick("shuffle", "deflate", "deflate", "fletcher32", "lzf")
            again = each in [other[0] for other in filters]
            values = {
                "deflate": (int(self.random.integers(10)),),
                "shuffle": self.pick((), (2,), (7,)) if again else (),
            }.get(each, ())
            fails = each == "lzf" or (each == "shuffle" and again and not values)
            filters.append((each, 1 if fails else self.pick(0, 1), values))
        return filters

    def write_chunks(
        self, dataset, kind: h5t.TypeID, filters: list, filled: bool, columns: dict, chunk: list[int]
    ) -> None:
        """Writes chunks directly, each by another part of the filters; datasets in memory encode them."""
        with h5py.File("encoder", "w", driver="core", backing_store=False) as encoder:
            for i, place in enumerate(np.ndindex(*(-(-n // c) for n, c in zip(dataset.shape, chunk)))):
                at = tuple(int(p * c) for p, c in zip(place, chunk))
                if i and not self.complete and self.chance(0.05):
                    continue  # missing
                creation, used = h5p.create(h5p.DATASET_CREATE), [k for k in range(len(filters)) if self.chance(0.7)]
                creation.set_chunk(tuple(chunk))
                if filled:
                    creation.set_fill_value(np.array(3.0))
                for k in used:
                    add_filter(creation, *filters[k])
                single = create(encoder, str(i), kind.copy(), tuple(chunk), creation)
                part = tuple(slice(a, a + c) for a, c in zip(at, chunk))
                write(single, {field: values[part] for field, values in columns.items()})
                single.flush()
                failed, data = single.read_direct_chunk((0,) * len(chunk))
                applied = sum(1 << k for n, k in enumerate(used) if not failed >> n & 1)
                dataset.write_direct_chunk(at, data, (1 << len(filters)) - 1 - applied)

    # -------------------------------------------------------------- attributes

    def write_labels(self, owner: h5py.HLObject) -> None:
        if self.reason is not None:
            return
        bad = self.pick(*LABELS, "sample_rate")
        if self.refuse("label", rf"\b{bad}\b"):
            sequence = np.empty((), object)
            sequence[()] = np.arange(3, dtype="i4")
            kind, value, dtype = self.pick(
                ("two texts", ["a", "b"], h5py.string_dtype()),
                ("two fixed texts", [b"a", b"b"], "S4"),
                ("two integers", [2000, 2000], "<i4"),
                ("compound", np.zeros((), "f4,S3"), None),
                ("opaque", np.datetime64(7, "ns"), h5py.opaque_dtype(np.dtype("M8[ns]"))),
                ("reference", owner.ref, h5py.ref_dtype),
                ("sequence", sequence, h5py.vlen_dtype(np.dtype("i4"))),
            )
            owner.attrs.create(bad, value, dtype=dtype)
            self.note("bad label", f"{bad}; {kind}")
        for name in LABELS:
            if self.flaw != "label" or name != bad:
                self.labels[name] = self.label(owner, name)
        if self.flaw in ("rate", "rate text") or (
            self.chance(0.5) and not (self.flaw == "label" and bad == "sample_rate")
        ):
            texts = {"rate": (b"1000", b"2048.0"), "rate text": (b"fast", b"2000 Hz")}.get(
                self.flaw, (b"2000", b"2000.0", b"2e3")
            )
            value, dtype = 1000 if self.flaw == "rate" else 2000, self.pick(
                "<f8", "<f4", "<f2", ">f8", "<i2", ">u4", "<i8", ">u8"
            )
            if self.flaw == "rate text" or self.chance(0.3):
                dtype = self.text(owner, "sample_rate", self.pick(*texts))
            else:
                owner.attrs.create("sample_rate", value, shape=self.pick((), (1,)), dtype=dtype)
            self.note("rate", dtype)
            for flaw in ("rate", "rate text"):
                self.refuse(flaw, "sample_rate")
        for i in range(12 if self.chance(0.1) else 0):
            owner.attrs[f"other {i}"] = self.pick(np.arange(3), "text", np.zeros(2, "f4,S3"), h5py.Empty("f4"))

    def text(self, owner: h5py.HLObject, name: str, text: bytes) -> str:
        """Writes a text as a string of some kind, and returns the kind."""
        charset, shape, kind = self.pick("ascii", "utf-8"), self.pick((), (1,), (1, 1)), h5t.C_S1.copy()
        padding = self.pick("variable", "null-term", "null-pad", "space-pad")
        if padding == "variable":
            owner.attrs.create(name, np.full(shape, text, object), dtype=h5py.string_dtype(charset))
        else:
            kind.set_size(len(text) + (self.pick(1, 5) if padding == "null-term" or not text else self.pick(0, 1, 9)))
            kind.set_cset(h5t.CSET_ASCII if charset == "ascii" else h5t.CSET_UTF8)
            kind.set_strpad(getattr(h5t, "STR_" + padding.replace("-", "").upper()))
            padded = np.void(text.ljust(kind.get_size(), b" " if padding == "space-pad" else b"\0"))
            h5py.h5a.create(owner.id, name.encode(), kind, h5s.create_simple(shape)).write(np.full(shape, padded), kind)
        return f"{padding} {charset}" + " of one element" * (shape != ())

    def label(self, owner: h5py.HLObject, name: str) -> str | None:
        """Writes a label, and returns the text it stands for."""
        kind, shape, label = (
            self.pick("absent", "text", "text", "text", "empty", "null", "none", "number", "number", "name"),
            self.pick((), (1,)),
            None,
        )
        if kind in ("text", "empty"):
            texts = (
                b"user7",
                "Müller".encode(),
                "日本".encode(),
                b"a b",
                b"1.50",
                b"M\xfcller",
                b"long" * 400,
                b"\xe6\x97x",
            )
            text = self.pick(*texts) if kind == "text" else b""
            label, kind = text.decode(
                errors="replace"
            ) or None, f"{kind} {self.text(owner, name, text)}" + " not UTF-8" * (b"\xfc" in text)
        elif kind == "null":
            owner.attrs[name] = h5py.Empty(self.pick("S8", "f8", h5py.string_dtype(), "<i4"))
        elif kind == "none":
            owner.attrs.create(name, np.zeros(0, "i4"), dtype=self.pick("<i4", "f8"))
        elif kind != "absent":
            sided = h5py.enum_dtype({"LEFT": 3, "RIGHT": 7}, self.pick("i1", ">i4", "<u2"))
            numbers = [
                ("i1", -128),
                ("<i4", 7),
                (">i2", -2),
                ("<u8", 2**64 - 1),
                (">i8", -(2**63)),
                ("u1", 255),
                (">u4", 10**9),
                ("<f8", 0.1),
                (">f8", 1234.5678),
                ("<f8", 7.0),
                ("<f4", 2.25),
                (">f4", -12.0),
                ("<f2", 0.5),
                ("<f8", 1e6),
            ]
            dtype, value = (
                self.pick(*numbers) if kind == "number" else self.pick((bool, True), (bool, False), (sided, 7))
            )
            owner.attrs.create(name, value, shape=shape, dtype=dtype)
            label = (
                repr(value).removesuffix(".0")
                if kind == "number"
                else {True: "TRUE", False: "FALSE", 7: "RIGHT"}[value]
            )
            kind = str(dtype) if kind == "number" else "bool" if dtype is bool else "enum"
        self.note("label", kind)
        return label

    # -------------------------------------------------------------- what is expected

    def expected(self) -> tuple[np.ndarray, np.ndarray, list]:
        """EMG, angles and valid runs, as h5py reads them."""
        with h5py.File(self.path) as file:
            emg, angles = (self.scaled(file, role) for role in WIDTHS)
            stored = self.stored(file, "ang")
        with np.errstate(over="ignore"):
            emg32, angles32 = emg.astype(np.float32), angles.astype(np.float32)
        judged = ~np.isnan(angles).all(axis=0)
        valid = np.isfinite(angles32[:, judged]).all(axis=1) & (np.abs(stored[:, judged]) > 1e-8).any(axis=1)
        assert np.isfinite(emg32).all() and valid.any(), f"this script's mistake, not a plain file: {self.about}"
        edges = np.flatnonzero(np.diff(valid, prepend=False, append=False)).reshape(-1, 2)
        return emg32, angles32, [[start, end - start] for start, end in edges.tolist()]

    def stored(self, file: h5py.File, role: str) -> np.ndarray:
        key = {"emg": "emg", "ang": "joint_angles"}[role]
        values = read(file[self.table or self.layout[key]].id, role if self.table else None, WIDTHS[role])
        return values.astype(np.float64)

    def scaled(self, file: h5py.File, role: str) -> np.ndarray:
        short, values = {"emg": "emg", "ang": "joint_angle"}[role], self.stored(file, role)
        factors = self.factors.get((role, "conversion")), self.factors.get((role, "offset"))
        if self.declared:
            factors = self.layout[short + "_scale"], self.layout.get(short + "_offset")
        scale, offset = factors
        return values if factors == (None, None) else values * (1 if scale is None else scale) + (offset or 0)
