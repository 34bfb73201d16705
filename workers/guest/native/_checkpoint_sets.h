/* The tables of sets: where each element lies, and how to lay a set out like that again.
 *
 * layouts.py says why, holds the substitute in Python, and tries at its start whether this Python's sets work the way
 * that is assumed here.
 *
 * A plan, which is durable data: version and binary logarithm of the slots, a byte each; a check sum and the finger (where
 * the next pop looks first, of any past table), 8 bytes each; then as wide as the number of a slot needs: how many
 * elements, their slots in the order that inserting them into a new set gives, the slots of what was removed. Numbers are
 * little endian.
 */

#define PLAN_VERSION 1
#define PLAN_FIXED 18 /* version, logarithm, check sum, finger */
#define NEAR 9        /* slots that are tried beside the first, before the next jump */
#define SMALLEST 8

static int trusted = 1;
static PyObject *removed; /* what stands in the place of an element that was removed; compared, never used */

typedef struct {
    Py_hash_t hash;
    size_t which; /* 0: free; else one more than the number of the element */
} Place;

static int slot_width(size_t slots) { return slots <= 1 << 8 ? 1 : slots <= 1 << 16 ? 2 : slots <= 1ull << 32 ? 4 : 8; }

static size_t free_place(const Place *places, size_t mask, Py_hash_t hash) {
    size_t perturb = (size_t)hash, at = (size_t)hash & mask;
    for (;;) {
        size_t near = at + NEAR <= mask ? NEAR : 0;
        for (size_t step = 0; step <= near; step++)
            if (!places[at + step].which) return at + step;
        perturb >>= 5;
        at = (at * 5 + 1 + perturb) & mask;
    }
}

/* Put `count` elements into a new set; returns its places, to be freed. */
static Place *inserted(const Py_hash_t *hashes, size_t count, size_t *slots) {
    size_t mask = SMALLEST - 1;
    Place *places = PyMem_Calloc(SMALLEST, sizeof(Place));
    for (size_t which = 0; places && which < count; which++) {
        places[free_place(places, mask, hashes[which])] = (Place){hashes[which], which + 1};
        size_t used = which + 1, wanted = used > 50000 ? used * 2 : used * 4, size = SMALLEST;
        if (used * 5 < mask * 3) continue;
        while (size <= wanted) size <<= 1;
        Place *larger = PyMem_Calloc(size, sizeof(Place));
        for (size_t at = 0; larger && at <= mask; at++)
            if (places[at].which) larger[free_place(larger, size - 1, places[at].hash)] = places[at];
        PyMem_Free(places);
        places = larger;
        mask = size - 1;
    }
    *slots = mask + 1;
    return places;
}

static uint64_t summed(uint64_t sum, size_t slot, Py_hash_t hash) {
    sum ^= (uint64_t)hash + 0x9E3779B97F4A7C15ull * (slot + 1);
    return (sum << 13 | sum >> 51) * 5 + 0x38495AB5;
}

static void put_number(uint8_t **at, int width, uint64_t value) {
    for (int byte = 0; byte < width; byte++) *(*at)++ = (uint8_t)(value >> 8 * byte);
}

static uint64_t take_number(const uint8_t **at, int width) {
    uint64_t value = 0;
    for (int byte = 0; byte < width; byte++) value |= (uint64_t) * (*at)++ << 8 * byte;
    return value;
}

/* Whether all elements hash the same in another process, as far as their types tell. */
static int hash_alike(PySetObject *set) {
    for (Py_ssize_t slot = 0; slot <= set->mask; slot++) {
        PyObject *key = set->table[slot].key;
        if (key && key != removed && Py_TYPE(key)->tp_hash == PyBaseObject_Type.tp_hash) return 0;
    }
    return 1;
}

static PyObject *plan_of(PySetObject *set, const Py_hash_t *hashes, const size_t *found, const Place *places,
                         size_t slots) {
    size_t used = (size_t)set->used, holes = (size_t)(set->fill - set->used), all = (size_t)set->mask + 1;
    int same = !set->finger && !holes && slots == all, bits = 0;
    for (size_t which = 0; same && which < used; which++) same = places[found[which]].which == which + 1;
    if (same) Py_RETURN_NONE;
    int width = slot_width(all);
    PyObject *made = PyBytes_FromStringAndSize(NULL, PLAN_FIXED + width * (Py_ssize_t)(1 + used + holes));
    if (!made) return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(made);
    while ((size_t)1 << bits < all) bits++;
    uint64_t sum = summed(0, holes, set->used);
    for (size_t which = 0; which < used; which++) sum = summed(sum, found[which], hashes[which]);
    put_number(&at, 1, PLAN_VERSION);
    put_number(&at, 1, (uint64_t)bits);
    put_number(&at, 8, sum);
    put_number(&at, 8, (uint64_t)set->finger);
    put_number(&at, width, used);
    for (size_t slot = 0; slot < slots; slot++)
        if (places[slot].which) put_number(&at, width, found[places[slot].which - 1]);
    for (size_t slot = 0; slot < all; slot++)
        if (set->table[slot].key == removed) put_number(&at, width, slot);
    return made;
}

/* Return how to lay a set out like this one after its elements were inserted in its order; None if they lie so then. */
static PyObject *layout(PyObject *Py_UNUSED(module), PyObject *object) {
    if (!trusted || !PyAnySet_Check(object)) Py_RETURN_NONE;
    PySetObject *set = (PySetObject *)object;
    if ((!set->fill && set->mask == SMALLEST - 1) || !hash_alike(set)) Py_RETURN_NONE;
    size_t used = (size_t)set->used, slots, which = 0;
    Py_hash_t *hashes = PyMem_Calloc(used + 1, sizeof(Py_hash_t));
    size_t *found = PyMem_Calloc(used + 1, sizeof(size_t));
    PyObject *made = NULL;
    Place *places = NULL;
    if (hashes && found) {
        for (Py_ssize_t slot = 0; slot <= set->mask; slot++) {
            if (!set->table[slot].key || set->table[slot].key == removed) continue;
            hashes[which] = set->table[slot].hash;
            found[which++] = (size_t)slot;
        }
        places = inserted(hashes, used, &slots);
    }
    if (places) made = plan_of(set, hashes, found, places, slots);
    else PyErr_NoMemory();
    PyMem_Free(places);
    PyMem_Free(found);
    PyMem_Free(hashes);
    return made;
}

/* Fill a table after a plan; 0 if the set is not the one that it was made for. */
static int laid_out(PySetObject *set, setentry *table, size_t slots, const uint8_t *at, size_t holes, uint64_t wanted) {
    int width = slot_width(slots);
    for (Py_ssize_t old = 0; old <= set->mask; old++) {
        if (!set->table[old].key) continue;
        size_t slot = take_number(&at, width);
        if (slot >= slots || table[slot].key) return 0;
        table[slot] = set->table[old];
    }
    uint64_t sum = summed(0, holes, set->used);
    for (size_t slot = 0; slot < slots; slot++)
        if (table[slot].key) sum = summed(sum, slot, table[slot].hash);
    if (sum != wanted) return 0;
    for (size_t hole = 0; hole < holes; hole++) {
        size_t slot = take_number(&at, width);
        if (slot >= slots || table[slot].key) return 0;
        table[slot] = (setentry){removed, -1};
    }
    return 1;
}

/* Lay a set that was just made out as its plan says; returns whether it is that set, and leaves it alone if not. */
static PyObject *arrange(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *object;
    Py_buffer plan;
    if (!PyArg_ParseTuple(args, "Oy*", &object, &plan)) return NULL;
    PySetObject *set = (PySetObject *)object;
    const uint8_t *at = plan.buf;
    setentry *table = NULL;
    int done = 0, bits = plan.len > PLAN_FIXED ? at[1] : 0;
    size_t slots = (size_t)1 << (bits < 48 ? bits : 0);
    Py_ssize_t width = slot_width(slots), numbers = (plan.len - PLAN_FIXED) / width - 1;
    if (trusted && PyAnySet_Check(object) && numbers >= 0 && at[0] == PLAN_VERSION && slots >= SMALLEST) {
        at += 2;
        uint64_t sum = take_number(&at, 8), finger = take_number(&at, 8);
        size_t used = take_number(&at, (int)width);
        size_t holes = (size_t)numbers - used;
        if (used == (size_t)set->used && set->fill == set->used && used <= (size_t)numbers && used + holes < slots)
            table = PyMem_Calloc(slots, sizeof(setentry));
        if (table && laid_out(set, table, slots, at, holes, sum)) {
            setentry *old = set->table == set->smalltable ? NULL : set->table;
            if (slots == SMALLEST) {
                memcpy(set->smalltable, table, sizeof set->smalltable);
                set->table = set->smalltable;
            } else {
                set->table = table;
                table = NULL;
            }
            PyMem_Free(old);
            set->mask = (Py_ssize_t)slots - 1;
            set->fill = (Py_ssize_t)(used + holes);
            set->finger = (Py_ssize_t)finger;
            done = 1;
        }
        PyMem_Free(table);
    }
    PyBuffer_Release(&plan);
    return PyBool_FromLong(done);
}

/* Make no plans: this Python's sets are others. */
static PyObject *no_layouts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    trusted = 0;
    Py_RETURN_NONE;
}

/* Learn what stands for a removed element. */
static int sets_begin(void) {
    PyObject *sample = PySet_New(NULL), *number = PyLong_FromLong(1);
    int failed = !sample || !number || PySet_Add(sample, number) < 0 || PySet_Discard(sample, number) < 0;
    if (!failed) removed = ((PySetObject *)sample)->table[1].key;
    Py_XDECREF(sample);
    Py_XDECREF(number);
    return failed ? -1 : 0;
}
