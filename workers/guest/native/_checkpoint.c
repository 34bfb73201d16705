/* What a checkpoint does for every object and every byte: the table of identities, digests, and where streams are cut.
 *
 * identity.py holds the substitute in Python and says what each part is for; the two give the same checkpoints.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "_checkpoint_sets.h"

/* Units of entries that belong to none: objects of the runtime, and what is never counted as shared. */
#define LIVE (-1)
#define NEVER (-2)

enum verdict { UNKNOWN, COUNT, SKIP, ASK };

typedef struct {
    PyObject *object; /* borrowed for a root: it is looked up anew before every checkpoint */
    PyObject *pid;
    long unit;
} Entry;

typedef struct {
    Entry *entries;
    size_t mask, used;
} Map;

typedef struct {
    PyObject_HEAD
    Map roots, seen, types, noted, open, parted;
    PyObject *judge_type, *judge_object, *judge_open, *parts_of, *hits, *pairs, *joined, *layouts;
    long unit;
    vectorcallfunc call;
} Table;

static size_t slot_of(const void *pointer) {
    return (size_t)(((uintptr_t)pointer >> 4) * 0x9E3779B97F4A7C15ull >> 20);
}

static int map_make(Map *map, size_t size) {
    map->entries = PyMem_Calloc(size, sizeof(Entry));
    map->mask = size - 1;
    map->used = 0;
    return map->entries ? 0 : -1;
}

static Entry *map_find(const Map *map, const void *object) {
    size_t slot = slot_of(object) & map->mask;
    while (map->entries[slot].object && map->entries[slot].object != object) slot = (slot + 1) & map->mask;
    return &map->entries[slot];
}

static int map_grow(Map *map) {
    Map larger;
    if (map_make(&larger, (map->mask + 1) * 2) < 0) return -1;
    for (size_t at = 0; at <= map->mask; at++)
        if (map->entries[at].object) *map_find(&larger, map->entries[at].object) = map->entries[at];
    larger.used = map->used;
    PyMem_Free(map->entries);
    *map = larger;
    return 0;
}

/* Put an entry where map_find found none. */
static int map_add(Map *map, Entry *free, PyObject *object, PyObject *pid, long unit) {
    free->object = object;
    free->pid = pid;
    free->unit = unit;
    if (++map->used * 2 <= map->mask) return 0;
    if (map_grow(map) == 0) return 0;
    PyErr_NoMemory();
    return -1;
}

/* Entries that an emptied map has room for: those of a small checkpoint, which stay in the nearest cache. */
#define FEW 256

/* Let go of what a map holds; finalizers that run on the way find it empty. */
static int map_drop(Map *map, int owns) {
    if (!map->used) return 0;
    Map old = *map;
    if (map_make(map, FEW) < 0) {
        *map = old;
        PyErr_NoMemory();
        return -1;
    }
    for (size_t at = 0; at <= old.mask; at++) {
        if (!old.entries[at].object) continue;
        if (owns) Py_DECREF(old.entries[at].object);
        Py_XDECREF(old.entries[at].pid);
    }
    PyMem_Free(old.entries);
    return 0;
}

static long joined(Table *self, long unit) {
    if (PyDict_GET_SIZE(self->joined) == 0) return unit;
    for (;;) {
        PyObject *key = PyLong_FromLong(unit);
        if (!key) return -9;
        PyObject *into = PyDict_GetItemWithError(self->joined, key);
        Py_DECREF(key);
        if (!into) return PyErr_Occurred() ? -9 : unit;
        unit = PyLong_AsLong(into);
    }
}

static int verdict_of(Table *self, PyTypeObject *type) {
    Entry *entry = map_find(&self->types, type);
    if (entry->object) return (int)entry->unit;
    PyObject *answer = PyObject_CallOneArg(self->judge_type, (PyObject *)type);
    if (!answer) return -1;
    long verdict = PyLong_AsLong(answer);
    Py_DECREF(answer);
    if (verdict == -1 && PyErr_Occurred()) return -1;
    entry = map_find(&self->types, type);
    if (!entry->object && map_add(&self->types, entry, Py_NewRef(type), NULL, verdict) < 0) return -1;
    return (int)verdict;
}

static int counted(Table *self, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyDict_Type || type == &PyList_Type || type == &PySet_Type) return COUNT;
    if (type == &PyUnicode_Type || type == &PyLong_Type || type == &PyFloat_Type || type == &PyTuple_Type ||
        type == &PyBool_Type || object == Py_None || type == &PyBytes_Type || type == &PyFrozenSet_Type)
        return SKIP;
    return verdict_of(self, type);
}

static int see(Table *self, PyObject *object) {
    int verdict = counted(self, object);
    if (verdict == SKIP) return 0;
    if (verdict < 0) return -1;
    Entry *entry = map_find(&self->seen, object);
    if (entry->object) {
        if (entry->unit == NEVER || entry->unit == self->unit) return 0;
        long unit = joined(self, entry->unit);
        if (unit == -9) return -1;
        entry->unit = unit;
        if (unit == self->unit) return 0;
        PyObject *pair = Py_BuildValue("(ll)", unit, self->unit);
        if (!pair) return -1;
        int failed = PySet_Add(self->pairs, pair);
        Py_DECREF(pair);
        return failed;
    }
    long unit = self->unit;
    if (verdict == ASK) {
        PyObject *answer = PyObject_CallOneArg(self->judge_object, object);
        if (!answer) return -1;
        int shared = PyObject_IsTrue(answer);
        Py_DECREF(answer);
        if (shared < 0) return -1;
        if (!shared) unit = NEVER;
        entry = map_find(&self->seen, object);
        if (entry->object) return 0;
    }
    /* Held until the checkpoint is made: what a hook returned would be freed, and its address given to another. */
    return map_add(&self->seen, entry, Py_NewRef(object), NULL, unit);
}

static int is_set(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PySet_Type || type == &PyFrozenSet_Type) return 1;
    return type->tp_flags & Py_TPFLAGS_HEAPTYPE && PyAnySet_Check(object);
}

/* Note how a set is laid out, once in a unit. */
static int note_layout(Table *self, PyObject *set) {
    Entry *entry = map_find(&self->noted, set);
    if (entry->object) return 0;
    if (map_add(&self->noted, entry, set, NULL, 0) < 0) return -1;
    PyObject *plan = layout(NULL, set);
    if (!plan) return -1;
    int failed = 0;
    if (plan != Py_None) {
        PyObject *pair = PyTuple_Pack(2, set, plan);
        failed = pair ? PyList_Append(self->layouts, pair) : -1;
        Py_XDECREF(pair);
    }
    Py_DECREF(plan);
    return failed;
}

static PyObject *table_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *Py_UNUSED(names)) {
    Table *self = (Table *)callable;
    if (PyVectorcall_NARGS(nargsf) != 1) {
        PyErr_SetString(PyExc_TypeError, "one object is expected");
        return NULL;
    }
    Entry *entry = map_find(&self->roots, args[0]);
    int own = entry->object && (entry->unit == self->unit || entry->unit == NEVER);
    if ((own || !entry->object) && is_set(args[0]) && note_layout(self, args[0]) < 0) return NULL;
    if (entry->object) {
        if (own) Py_RETURN_NONE;
        if (entry->unit != LIVE && PySet_Add(self->hits, entry->pid) < 0) return NULL;
        return Py_NewRef(entry->pid);
    }
    if (see(self, args[0]) < 0) return NULL;
    Py_RETURN_NONE;
}

/* --- digests: 128 bits that tell two blocks apart; not against an adversary, who could only fool himself --- */

static inline uint64_t fold(uint64_t left, uint64_t right) {
    __uint128_t product = (__uint128_t)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t word(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static const uint64_t SALT[8] = {0x8BB84B93962EACC9ull, 0x4B33A62ED433D4A3ull, 0x4D5A2DA51DE1AA47ull,
                                 0xA0761D6478BD642Full, 0xE7037ED1A0B428DBull, 0x90ED1765281C388Cull,
                                 0xD6E8FEB86659FD93ull, 0xC2B2AE3D27D4EB4Full};

static void digest_of(const uint8_t *at, size_t size, uint8_t out[16]) {
    uint64_t a = SALT[0], b = SALT[1], c = SALT[2], d = SALT[3], length = size;
    for (; size >= 64; at += 64, size -= 64) {
        a = fold(word(at) ^ SALT[4], word(at + 8) ^ a);
        b = fold(word(at + 16) ^ SALT[5], word(at + 24) ^ b);
        c = fold(word(at + 32) ^ SALT[6], word(at + 40) ^ c);
        d = fold(word(at + 48) ^ SALT[7], word(at + 56) ^ d);
    }
    uint8_t rest[64] = {0};
    memcpy(rest, at, size);
    a = fold(word(rest) ^ SALT[4], word(rest + 8) ^ a);
    b = fold(word(rest + 16) ^ SALT[5], word(rest + 24) ^ b);
    c = fold(word(rest + 32) ^ SALT[6], word(rest + 40) ^ c);
    d = fold(word(rest + 48) ^ SALT[7], word(rest + 56) ^ d);
    uint64_t low = fold(a ^ SALT[0], b ^ length) ^ fold(c ^ SALT[1], d ^ SALT[2]);
    uint64_t high = fold(a ^ SALT[3], c ^ SALT[4]) + fold(b ^ SALT[5], d ^ length);
    memcpy(out, &low, 8);
    memcpy(out + 8, &high, 8);
}

static PyObject *table_begin(Table *self, PyObject *argument) {
    long unit = PyLong_AsLong(argument);
    if (unit == -1 && PyErr_Occurred()) return NULL;
    PyObject *hits = PySet_New(NULL);
    if (!hits) return NULL;
    self->unit = unit;
    Py_XSETREF(self->hits, hits);
    if (map_drop(&self->noted, 0) < 0) return NULL;
    return Py_NewRef(hits);
}

#include "_checkpoint_glance.h"

static PyObject *table_segment(Table *self, PyObject *again) {
    PyObject *layouts = PyList_New(0);
    if (!layouts || (again == Py_True && map_drop(&self->noted, 0) < 0)) return NULL;
    Py_XSETREF(self->layouts, layouts);
    return Py_NewRef(layouts);
}

static PyObject *table_root(Table *self, PyObject *args) {
    PyObject *object, *pid;
    long unit;
    if (!PyArg_ParseTuple(args, "OOl", &object, &pid, &unit)) return NULL;
    Entry *entry = map_find(&self->roots, object);
    if (entry->object) {
        Py_XSETREF(entry->pid, Py_NewRef(pid));
        entry->unit = unit;
    } else if (map_add(&self->roots, entry, object, Py_NewRef(pid), unit) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Make the values of all names roots; what is in `never` counts as shared nowhere. */
static PyObject *table_bind(Table *self, PyObject *args) {
    PyObject *values, *roots, *units, *never, *name, *root;
    Py_ssize_t at = 0;
    if (!PyArg_ParseTuple(args, "O!O!O!O!", &PyDict_Type, &values, &PyDict_Type, &roots, &PyDict_Type, &units,
                          &PyList_Type, &never))
        return NULL;
    for (Py_ssize_t which = 0; which < PyList_GET_SIZE(never); which++) {
        PyObject *object = PyList_GET_ITEM(never, which);
        Entry *entry = map_find(&self->roots, object);
        if (!entry->object && map_add(&self->roots, entry, object, NULL, NEVER) < 0) return NULL;
    }
    while (PyDict_Next(roots, &at, &name, &root)) {
        PyObject *object = PyDict_GetItemWithError(values, name), *unit = PyDict_GetItemWithError(units, root);
        if (!object || !unit) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_KeyError, "%R has no unit", name);
        Entry *entry = map_find(&self->roots, object);
        long number = PyLong_AsLong(unit);
        if (entry->object) {
            Py_XSETREF(entry->pid, Py_NewRef(root));
            entry->unit = number;
        } else if (map_add(&self->roots, entry, object, Py_NewRef(root), number) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

/* Make the objects of the runtime roots that are met everywhere; of two keys of one object, the first stands for it. */
static PyObject *table_live(Table *self, PyObject *live) {
    PyObject *key, *object;
    Py_ssize_t at = 0;
    if (!PyDict_Check(live)) return PyErr_Format(PyExc_TypeError, "a dict is expected");
    while (PyDict_Next(live, &at, &key, &object)) {
        Entry *entry = map_find(&self->roots, object);
        if (!entry->object) {
            if (map_add(&self->roots, entry, object, Py_NewRef(key), LIVE) < 0) return NULL;
        } else if (entry->unit != LIVE) {
            Py_XSETREF(entry->pid, Py_NewRef(key));
            entry->unit = LIVE;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *table_never(Table *self, PyObject *object) {
    Entry *entry = map_find(&self->roots, object);
    if (!entry->object && map_add(&self->roots, entry, object, NULL, NEVER) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *table_clear(Table *self, PyObject *Py_UNUSED(unused)) {
    if (map_drop(&self->roots, 0) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *table_join(Table *self, PyObject *args) {
    PyObject *old, *into;
    if (!PyArg_ParseTuple(args, "O!O!", &PyLong_Type, &old, &PyLong_Type, &into)) return NULL;
    if (PyDict_SetItem(self->joined, old, into) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *table_forget(Table *self, PyObject *Py_UNUSED(unused)) {
    PyDict_Clear(self->joined);
    PyObject *again = table_segment(self, Py_True);
    if (!again) return NULL;
    Py_DECREF(again);
    if (PySet_Clear(self->pairs) < 0 || map_drop(&self->seen, 1) < 0 || map_drop(&self->open, 1) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *table_pairs(Table *self, void *Py_UNUSED(unused)) { return Py_NewRef(self->pairs); }

static void table_dealloc(Table *self) {
    Map *maps[] = {&self->roots, &self->noted, &self->seen, &self->types, &self->open, &self->parted};
    for (int which = 0; which < 6; which++) {
        if (!maps[which]->entries) continue;
        map_drop(maps[which], which > 1);
        PyMem_Free(maps[which]->entries);
    }
    Py_XDECREF(self->judge_type);
    Py_XDECREF(self->judge_object);
    Py_XDECREF(self->judge_open);
    Py_XDECREF(self->parts_of);
    Py_XDECREF(self->hits);
    Py_XDECREF(self->pairs);
    Py_XDECREF(self->joined);
    Py_XDECREF(self->layouts);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *judge_type, *judge_object, *judge_open, *parts_of;
    if (!PyArg_ParseTuple(args, "OOOO", &judge_type, &judge_object, &judge_open, &parts_of)) return NULL;
    Table *self = (Table *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->call = table_call;
    self->judge_type = Py_NewRef(judge_type);
    self->judge_object = Py_NewRef(judge_object);
    self->judge_open = Py_NewRef(judge_open);
    self->parts_of = Py_NewRef(parts_of);
    self->hits = PySet_New(NULL);
    self->pairs = PySet_New(NULL);
    self->joined = PyDict_New();
    self->layouts = PyList_New(0);
    if (!self->hits || !self->pairs || !self->joined || !self->layouts || map_make(&self->roots, FEW) < 0 ||
        map_make(&self->seen, FEW) < 0 || map_make(&self->types, 1024) < 0 || map_make(&self->noted, 64) < 0 ||
        map_make(&self->open, 64) < 0 || map_make(&self->parted, 16) < 0) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static PyMethodDef table_methods[] = {
    {"begin", (PyCFunction)table_begin, METH_O, NULL},   {"root", (PyCFunction)table_root, METH_VARARGS, NULL},
    {"bind", (PyCFunction)table_bind, METH_VARARGS, NULL}, {"live", (PyCFunction)table_live, METH_O, NULL},
    {"segment", (PyCFunction)table_segment, METH_O, NULL}, {"glance", (PyCFunction)table_glance, METH_O, NULL},
    {"differing", (PyCFunction)table_differing, METH_VARARGS, NULL},
    {"never", (PyCFunction)table_never, METH_O, NULL},   {"clear", (PyCFunction)table_clear, METH_NOARGS, NULL},
    {"join", (PyCFunction)table_join, METH_VARARGS, NULL}, {"forget", (PyCFunction)table_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef table_attributes[] = {{"pairs", (getter)table_pairs, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyTypeObject table_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_checkpoint.Table",
    .tp_basicsize = sizeof(Table),
    .tp_dealloc = (destructor)table_dealloc,
    .tp_vectorcall_offset = offsetof(Table, call),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_methods = table_methods,
    .tp_getset = table_attributes,
    .tp_new = table_new,
};

static PyObject *digests(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer buffer;
    Py_ssize_t block;
    if (!PyArg_ParseTuple(args, "y*n", &buffer, &block)) return NULL;
    if (block <= 0) block = buffer.len ? buffer.len : 1;
    Py_ssize_t count = buffer.len ? (buffer.len + block - 1) / block : 0;
    PyObject *made = PyBytes_FromStringAndSize(NULL, count * 16);
    if (made) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(made);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t at = 0; at < count; at++) {
            Py_ssize_t start = at * block, left = buffer.len - start;
            digest_of((const uint8_t *)buffer.buf + start, (size_t)(left < block ? left : block), out + at * 16);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&buffer);
    return made;
}

/* --- where a stream is cut: after bytes that the content decides, so that an insertion moves no cut behind it --- */

static uint64_t GEAR[256];

static PyObject *cuts(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer buffer;
    int bits;
    if (!PyArg_ParseTuple(args, "y*i", &buffer, &bits)) return NULL;
    const uint8_t *bytes = buffer.buf;
    Py_ssize_t size = buffer.len, least = (Py_ssize_t)1 << (bits - 2), most = (Py_ssize_t)1 << (bits + 2);
    uint64_t mask = ((((uint64_t)1 << bits) - 1) << (63 - bits));
    PyObject *ends = PyList_New(0);
    for (Py_ssize_t start = 0; ends && start < size;) {
        Py_ssize_t at = start + least < size ? start + least : size, limit = start + most < size ? start + most : size;
        uint64_t hash = 0;
        for (Py_ssize_t warm = at - start > 64 ? at - 64 : start; warm < at; warm++) hash = (hash << 1) + GEAR[bytes[warm]];
        while (at < limit) {
            hash = (hash << 1) + GEAR[bytes[at++]];
            if (!(hash & mask)) break;
        }
        PyObject *end = PyLong_FromSsize_t(at);
        if (!end || PyList_Append(ends, end) < 0) Py_CLEAR(ends);
        Py_XDECREF(end);
        start = at;
    }
    PyBuffer_Release(&buffer);
    return ends;
}

/* --- pages that were written to: userfaultfd in asynchronous write-protect mode, read back by PAGEMAP_SCAN ---
 *
 * Headers of older systems lack the names; the numbers are the kernel's user-space interface. */

#define WRITE_PROTECT_FEATURES ((1ull << 0) | (1ull << 13) | (1ull << 15)) /* faults, unpopulated pages, asynchronous */

struct api { uint64_t version, features, ioctls; };
struct range { uint64_t start, length; };
struct registration { struct range range; uint64_t mode, ioctls; };
struct protection { struct range range; uint64_t mode; };
struct region { uint64_t start, end, categories; };
struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define UFFD_API _IOWR(0xAA, 0x3F, struct api)
#define UFFD_REGISTER _IOWR(0xAA, 0x00, struct registration)
#define UFFD_PROTECT _IOWR(0xAA, 0x06, struct protection)
#define SCAN _IOWR('f', 16, struct scan)
#define SCAN_PROTECT 1 /* protect again what is reported */
#define SCAN_CHECK 2   /* fail where memory is not watched */
#define WRITTEN 2      /* PAGE_IS_WRITTEN */

static PyObject *pages_open(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* faults of user space only */);
    if (fd < 0) return PyErr_SetFromErrno(PyExc_OSError);
    struct api api = {.version = 0xAA, .features = WRITE_PROTECT_FEATURES};
    if (ioctl(fd, UFFD_API, &api) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(fd);
        return NULL;
    }
    int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (map < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(fd);
        return NULL;
    }
    return Py_BuildValue("(ii)", fd, map);
}

static PyObject *pages_arm(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd;
    unsigned long long start, end;
    if (!PyArg_ParseTuple(args, "iKK", &fd, &start, &end)) return NULL;
    struct registration registration = {.range = {start, end - start}, .mode = 2 /* write protection */};
    struct protection protection = {.range = {start, end - start}, .mode = 1};
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = (ioctl(fd, UFFD_REGISTER, &registration) < 0 && errno != EBUSY) || ioctl(fd, UFFD_PROTECT, &protection) < 0;
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *pages_written(PyObject *Py_UNUSED(module), PyObject *args) {
    int map, again; /* whether what is reported is protected again */
    unsigned long long start, end;
    if (!PyArg_ParseTuple(args, "iKKi", &map, &start, &end, &again)) return NULL;
    PyObject *found = PyList_New(0);
    struct region regions[256];
    while (found && start < end) {
        struct scan scan = {.size = sizeof scan, .flags = (again ? SCAN_PROTECT : 0) | SCAN_CHECK,
                            .start = start, .end = end,
                            .vec = (uint64_t)(uintptr_t)regions, .vec_len = 256, .category_mask = WRITTEN,
                            .return_mask = WRITTEN};
        int count;
        Py_BEGIN_ALLOW_THREADS
        count = ioctl(map, SCAN, &scan);
        Py_END_ALLOW_THREADS
        if (count < 0 || scan.walk_end <= start) {
            PyErr_SetFromErrno(PyExc_OSError);
            Py_CLEAR(found);
            break;
        }
        for (int which = 0; which < count; which++) {
            PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)regions[which].start,
                                           (unsigned long long)regions[which].end);
            if (!pair || PyList_Append(found, pair) < 0) {
                Py_XDECREF(pair);
                Py_CLEAR(found);
                break;
            }
            Py_DECREF(pair);
        }
        start = scan.walk_end;
    }
    return found;
}

/* Return the keys of memory, (key, start, end) each, that may have been written to; it stays as it is. */
static PyObject *pages_touched(PyObject *Py_UNUSED(module), PyObject *args) {
    int map;
    PyObject *places;
    if (!PyArg_ParseTuple(args, "iO!", &map, &PyList_Type, &places)) return NULL;
    PyObject *found = PySet_New(NULL);
    for (Py_ssize_t at = 0; found && at < PyList_GET_SIZE(places); at++) {
        PyObject *key;
        unsigned long long start, end;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(places, at), "OKK", &key, &start, &end)) Py_CLEAR(found);
        int count = 0;
        while (found && !count && start < end) {
            struct region region;
            struct scan scan = {.size = sizeof scan, .flags = SCAN_CHECK, .start = start, .end = end,
                                .vec = (uint64_t)(uintptr_t)&region, .vec_len = 1, .category_mask = WRITTEN,
                                .return_mask = WRITTEN};
            count = ioctl(map, SCAN, &scan);
            /* What cannot be asked about counts as written. */
            if (count >= 0 && scan.walk_end <= start) count = -1;
            start = scan.walk_end;
        }
        if (found && count && PySet_Add(found, key) < 0) Py_CLEAR(found);
    }
    return found;
}

/* Whether descriptors, (descriptor, device, inode, mode) each, are still what they were. */
static PyObject *pages_are(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd[2];
    unsigned long long device[2], inode[2];
    unsigned mode[2];
    if (!PyArg_ParseTuple(args, "(iKKI)(iKKI)", &fd[0], &device[0], &inode[0], &mode[0], &fd[1], &device[1], &inode[1],
                          &mode[1]))
        return NULL;
    for (int which = 0; which < 2; which++) {
        struct stat found;
        if (fstat(fd[which], &found) < 0 || found.st_dev != device[which] || found.st_ino != inode[which] ||
            found.st_mode != mode[which])
            Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

/* Return how many faults of memory the threads of this process have had in all; a write to a watched page is one. */
static PyObject *pages_faults(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) < 0) return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(usage.ru_minflt + usage.ru_majflt);
}

static PyObject *address(PyObject *Py_UNUSED(module), PyObject *object) {
    Py_buffer buffer;
    if (PyObject_GetBuffer(object, &buffer, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *made = PyLong_FromVoidPtr(buffer.buf);
    PyBuffer_Release(&buffer);
    return made;
}

/* --- names: which of ten thousand are bound to something else costs a third of a millisecond --- */

/* Return a copy of a namespace without the names that are no texts. */
static PyObject *plain_names(PyObject *Py_UNUSED(module), PyObject *namespace) {
    if (!PyDict_Check(namespace)) return PyErr_Format(PyExc_TypeError, "a dict is expected");
    PyObject *made = PyDict_New(), *name, *value;
    Py_ssize_t at = 0;
    while (made && PyDict_Next(namespace, &at, &name, &value))
        if (PyUnicode_CheckExact(name) && PyDict_SetItem(made, name, value) < 0) Py_CLEAR(made);
    return made;
}

/* Return which modules have a global of that name, with its value; no code of theirs runs. */
static PyObject *globals_named(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *modules, *wanted, *name, *module;
    Py_ssize_t at = 0;
    if (!PyArg_ParseTuple(args, "O!U", &PyDict_Type, &modules, &wanted)) return NULL;
    PyObject *made = PyList_New(0);
    while (made && PyDict_Next(modules, &at, &name, &module)) {
        PyObject *value = PyModule_Check(module) ? PyDict_GetItemWithError(PyModule_GetDict(module), wanted) : NULL;
        if (!value && !PyErr_Occurred()) continue;
        PyObject *pair = value ? PyTuple_Pack(2, name, value) : NULL;
        if (!pair || PyList_Append(made, pair) < 0) Py_CLEAR(made);
        Py_XDECREF(pair);
    }
    return made;
}

/* Return the names whose values lie elsewhere than `ids` says. */
static PyObject *changed_names(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *values, *ids, *name, *value;
    Py_ssize_t at = 0;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &values, &PyDict_Type, &ids)) return NULL;
    PyObject *made = PyList_New(0);
    while (made && PyDict_Next(values, &at, &name, &value)) {
        PyObject *known = PyDict_GetItemWithError(ids, name);
        int beyond = 0;
        long long address = known ? PyLong_AsLongLongAndOverflow(known, &beyond) : 0;
        if (known && !beyond && address == (long long)(intptr_t)value) continue;
        if (PyErr_Occurred() || PyList_Append(made, name) < 0) Py_CLEAR(made);
    }
    return made;
}

/* Return a digest of the memory of an object itself, behind its count of references. */
static PyObject *memory(PyObject *Py_UNUSED(module), PyObject *object) {
    uint8_t digest[16];
    size_t head = offsetof(PyObject, ob_type);
    digest_of((const uint8_t *)object + head, (size_t)Py_TYPE(object)->tp_basicsize - head, digest);
    return PyBytes_FromStringAndSize((const char *)digest, sizeof digest);
}

static PyMethodDef functions[] = {{"memory", memory, METH_O, NULL},
                                  {"plain_names", plain_names, METH_O, NULL},
                                  {"globals_named", globals_named, METH_VARARGS, NULL},
                                  {"changed_names", changed_names, METH_VARARGS, NULL},
                                  {"digests", digests, METH_VARARGS, NULL},
                                  {"cuts", cuts, METH_VARARGS, NULL},
                                  {"address", address, METH_O, NULL},
                                  {"layout", layout, METH_O, NULL},
                                  {"no_layouts", no_layouts, METH_NOARGS, NULL},
                                  {"arrange", arrange, METH_VARARGS, NULL},
                                  {"pages_open", pages_open, METH_NOARGS, NULL},
                                  {"pages_arm", pages_arm, METH_VARARGS, NULL},
                                  {"pages_are", pages_are, METH_VARARGS, NULL},
                                  {"pages_faults", pages_faults, METH_NOARGS, NULL},
                                  {"pages_touched", pages_touched, METH_VARARGS, NULL},
                                  {"pages_written", pages_written, METH_VARARGS, NULL},
                                  {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_checkpoint", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__checkpoint(void);
PyMODINIT_FUNC PyInit__checkpoint(void) {
    uint64_t state = 88172645463325252ull;
    for (int which = 0; which < 256; which++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        GEAR[which] = state;
    }
    if (PyType_Ready(&table_type) < 0 || sets_begin() < 0) return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddObjectRef(module, "Table", (PyObject *)&table_type) < 0) Py_CLEAR(module);
    return module;
}
