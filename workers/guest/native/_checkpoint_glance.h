/* A glance at a small unit: a digest that is the same as long as pickling it would give the same bytes.
 *
 * It is given only for what is made of plain containers, numbers, texts, functions, classes and instances without hooks
 * of their own; None for everything else, which is pickled to see whether it changed. Every object is noted in the table
 * as the pickler would have it noted, so that what two units share is found although one of them was only glanced at.
 */

#define GLANCE_OBJECTS 2048 /* more is no small unit */
#define GLANCE_DEPTH 100

enum tag { NOTHING = 1, TRUTH, NUMBER, LARGE_NUMBER, REAL, PAIR_OF_REALS, AGAIN, ELSEWHERE, TEXT, BYTES, BYTE_ARRAY, TUPLE,
           LIST, DICT, SET, FROZEN_SET, CODE, FUNCTION, CELL, EMPTY_CELL, METHOD, BY_NAME, CLASS, INSTANCE, PROPERTY,
           STATIC, OF_CLASS, DESCRIPTOR, PARTS, ABSENT };

typedef struct {
    Table *table;
    Map met;
    uint64_t left, right;
    PyObject *held; /* what the digest knows by its address: it must not be freed, and the address given to another */
    PyObject *made; /* what was made only to be looked at */
    int depth;
} Glance;

static int look(Glance *glance, PyObject *object);

/* Both steps can be undone, so two states that differ stay different. */
static inline void eat(Glance *glance, uint64_t value) {
    uint64_t left = glance->left ^ value, right = glance->right + value * 0x9E3779B97F4A7C15ull;
    glance->left = (left << 27 | left >> 37) * 0xE7037ED1A0B428DBull + 0x52DCE729;
    glance->right = (right << 31 | right >> 33) * 0xD6E8FEB86659FD93ull + 0x38495AB5;
}

static void eat_bytes(Glance *glance, enum tag tag, const void *bytes, size_t size) {
    uint64_t words[2] = {0, 0};
    eat(glance, tag | (uint64_t)size << 8);
    if (size <= sizeof words) memcpy(words, bytes, size);
    else digest_of(bytes, size, (uint8_t *)words);
    eat(glance, words[0]);
    if (size > sizeof words[0]) eat(glance, words[1]);
}

static int by_address(Glance *glance, enum tag tag, PyObject *object) {
    eat(glance, tag);
    eat(glance, (uint64_t)(uintptr_t)object);
    return PyList_Append(glance->held, object) < 0 ? -1 : 1;
}

static int look_or_absent(Glance *glance, PyObject *object) {
    if (object) return look(glance, object);
    eat(glance, ABSENT);
    return 1;
}

static int look_at_all(Glance *glance, PyObject *const *objects, size_t count) {
    int plain = 1;
    for (size_t which = 0; plain == 1 && which < count; which++) plain = look_or_absent(glance, objects[which]);
    return plain;
}

/* Judging a class may run code, which may change the container: then it is no business of a glance any more. */
static int look_at_list(Glance *glance, PyObject *list) {
    Py_ssize_t size = PyList_GET_SIZE(list);
    int plain = 1;
    eat(glance, LIST | (uint64_t)size << 8);
    for (Py_ssize_t at = 0; plain == 1 && at < size; at++) {
        if (at >= PyList_GET_SIZE(list)) return 0;
        PyObject *item = Py_NewRef(PyList_GET_ITEM(list, at));
        plain = look(glance, item);
        Py_DECREF(item);
    }
    return plain == 1 && size != PyList_GET_SIZE(list) ? 0 : plain;
}

static int look_at_dict(Glance *glance, PyObject *dict) {
    Py_ssize_t at = 0, size = PyDict_GET_SIZE(dict);
    PyObject *key, *value;
    int plain = 1;
    eat(glance, DICT | (uint64_t)size << 8);
    while (plain == 1 && PyDict_Next(dict, &at, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        plain = look(glance, key);
        if (plain == 1) plain = look(glance, value);
        Py_DECREF(key);
        Py_DECREF(value);
        if (PyDict_GET_SIZE(dict) != size) return plain < 0 ? -1 : 0;
    }
    return plain;
}

static int look_at_set(Glance *glance, PyObject *object, enum tag tag) {
    PySetObject *set = (PySetObject *)object;
    Py_ssize_t mask = set->mask, used = set->used;
    int plain = 1;
    eat(glance, tag | (uint64_t)mask << 8);
    eat(glance, (uint64_t)set->finger);
    for (Py_ssize_t slot = 0; plain == 1 && slot <= mask; slot++) {
        PyObject *key = set->table[slot].key;
        if (!key) continue;
        eat(glance, (uint64_t)slot << 1 | (key == removed));
        if (key == removed) continue;
        Py_INCREF(key);
        plain = look(glance, key);
        Py_DECREF(key);
        if (set->mask != mask || set->used != used) return plain < 0 ? -1 : 0;
    }
    return plain;
}

static int look_at_function(Glance *glance, PyObject *object) {
    PyFunctionObject *function = (PyFunctionObject *)object;
    eat(glance, FUNCTION);
    PyObject *parts[] = {function->func_code,     function->func_globals,    function->func_name,
                         function->func_qualname, function->func_doc,        function->func_module,
                         function->func_defaults, function->func_kwdefaults, function->func_closure,
                         function->func_dict,     function->func_annotations, function->func_typeparams,
#if PY_VERSION_HEX >= 0x030E0000
                         function->func_annotate,
#endif
    };
    size_t count = sizeof parts / sizeof *parts;
    for (size_t part = 0; part < count; part++) Py_XINCREF(parts[part]);
    int plain = look_at_all(glance, parts, count);
    for (size_t part = 0; part < count; part++) Py_XDECREF(parts[part]);
    return plain;
}

static int look_at_attribute(Glance *glance, PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    if (!value) return -1;
    int plain = look(glance, value);
    Py_DECREF(value);
    return plain;
}

static int look_at_member(Glance *glance, PyObject *owner, PyObject *value) {
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyGetSetDescr_Type || type == &PyMemberDescr_Type) {
        if ((PyObject *)PyDescr_TYPE(value) != owner) return 0;
        eat(glance, DESCRIPTOR);
        return look(glance, PyDescr_NAME(value));
    }
    if (type == &PyStaticMethod_Type || type == &PyClassMethod_Type) {
        eat(glance, type == &PyStaticMethod_Type ? STATIC : OF_CLASS);
        return look_at_attribute(glance, value, "__func__");
    }
    if (type == &PyProperty_Type) {
        static const char *const parts[] = {"fget", "fset", "fdel", "__doc__"};
        int plain = 1;
        eat(glance, PROPERTY);
        for (int part = 0; plain == 1 && part < 4; part++) plain = look_at_attribute(glance, value, parts[part]);
        return plain;
    }
    return look(glance, value);
}

static int look_at_class(Glance *glance, PyObject *object) {
    PyTypeObject *type = (PyTypeObject *)object;
    if (Py_TYPE(object) != &PyType_Type) return 0;
    PyObject *dict = PyType_GetDict(type), *key, *value;
    if (!dict) return 0;
    Py_ssize_t at = 0, size = PyDict_GET_SIZE(dict);
    eat(glance, CLASS | (uint64_t)size << 8);
    eat_bytes(glance, TEXT, type->tp_name, strlen(type->tp_name));
    int plain = look_at_attribute(glance, object, "__qualname__");
    if (plain == 1) plain = look(glance, type->tp_bases);
    while (plain == 1 && PyDict_Next(dict, &at, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        plain = look(glance, key);
        if (plain == 1) plain = look_at_member(glance, object, value);
        Py_DECREF(key);
        Py_DECREF(value);
        if (plain == 1 && PyDict_GET_SIZE(dict) != size) plain = 0;
    }
    Py_DECREF(dict);
    return plain;
}

/* What instances of a class are: UNKNOWN, OPEN or PARTS of glances.py. The first two as far as this checkpoint has asked:
 * code can change its classes. PARTS are classes of libraries, known by their identity, and asked about once. */
static int kind_of(Table *table, PyTypeObject *type) {
    Entry *entry = map_find(&table->parted, type);
    if (entry->object) return 2;
    entry = map_find(&table->open, type);
    if (entry->object) return (int)entry->unit;
    PyObject *answer = PyObject_CallOneArg(table->judge_open, (PyObject *)type);
    long kind = answer ? PyLong_AsLong(answer) : -1;
    Py_XDECREF(answer);
    if (kind < 0) return -1;
    Map *map = kind == 2 ? &table->parted : &table->open;
    entry = map_find(map, type);
    if (!entry->object && map_add(map, entry, Py_NewRef(type), NULL, kind) < 0) return -1;
    return (int)kind;
}

static int look_at_parts(Glance *glance, PyObject *object) {
    PyObject *parts = PyObject_CallOneArg(glance->table->parts_of, object);
    if (!parts) return -1;
    /* Until the end: what was met is known by its address. */
    int failed = PyList_Append(glance->made, parts);
    Py_DECREF(parts);
    eat(glance, PARTS);
    eat(glance, (uint64_t)(uintptr_t)Py_TYPE(object));
    return failed < 0 ? -1 : look_at_list(glance, parts);
}

static int look_at_instance(Glance *glance, PyObject *object) {
    int kind = kind_of(glance->table, Py_TYPE(object));
    if (kind == 2) return look_at_parts(glance, object);
    if (kind != 1) return kind;
    eat(glance, INSTANCE);
    int plain = look(glance, (PyObject *)Py_TYPE(object));
    if (plain != 1) return plain;
    PyObject *dict = PyObject_GenericGetDict(object, NULL);
    if (!dict) return -1;
    plain = PyDict_CheckExact(dict) ? look(glance, dict) : 0;
    Py_DECREF(dict);
    return plain;
}

static int look_at_number(Glance *glance, PyObject *object) {
    int beyond;
    long long value = PyLong_AsLongLongAndOverflow(object, &beyond);
    if (!beyond) {
        eat(glance, NUMBER);
        eat(glance, (uint64_t)value);
        return 1;
    }
    PyObject *text = PyNumber_ToBase(object, 16);
    if (!text) return -1;
    eat_bytes(glance, LARGE_NUMBER, PyUnicode_DATA(text), (size_t)PyUnicode_GET_LENGTH(text));
    Py_DECREF(text);
    return 1;
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* What is found again by its name where it is loaded: it is the same as long as it is this very object. */
static int is_named(Glance *glance, PyObject *object) {
    Entry *entry = map_find(&glance->table->seen, object);
    return entry->object && entry->unit == NEVER;
}

static int look_inside(Glance *glance, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyUnicode_Type) {
        int kind = PyUnicode_KIND(object);
        eat(glance, (uint64_t)kind);
        eat_bytes(glance, TEXT, PyUnicode_DATA(object), (size_t)(PyUnicode_GET_LENGTH(object) * kind));
        return 1;
    }
    if (type == &PyBytes_Type || type == &PyByteArray_Type) {
        int fixed = type == &PyBytes_Type;
        eat_bytes(glance, fixed ? BYTES : BYTE_ARRAY, fixed ? PyBytes_AS_STRING(object) : PyByteArray_AS_STRING(object),
                  (size_t)Py_SIZE(object));
        return 1;
    }
    if (type == &PyTuple_Type) {
        eat(glance, TUPLE | (uint64_t)PyTuple_GET_SIZE(object) << 8);
        return look_at_all(glance, &PyTuple_GET_ITEM(object, 0), (size_t)PyTuple_GET_SIZE(object));
    }
    if (type == &PyList_Type) return look_at_list(glance, object);
    if (type == &PyDict_Type) return look_at_dict(glance, object);
    if (type == &PySet_Type) return look_at_set(glance, object, SET);
    if (type == &PyFrozenSet_Type) return look_at_set(glance, object, FROZEN_SET);
    if (type == &PyCode_Type) return by_address(glance, CODE, object);
    if ((type == &PyFunction_Type || PyType_Check(object)) && is_named(glance, object))
        return by_address(glance, BY_NAME, object);
    if (type == &PyFunction_Type) return look_at_function(glance, object);
    if (type == &PyCell_Type) {
        PyObject *content = PyCell_Get(object);
        eat(glance, content ? CELL : EMPTY_CELL);
        int plain = content ? look(glance, content) : 1;
        Py_XDECREF(content);
        return plain;
    }
    if (type == &PyMethod_Type) {
        PyObject *parts[] = {PyMethod_GET_FUNCTION(object), PyMethod_GET_SELF(object)};
        eat(glance, METHOD);
        return look_at_all(glance, parts, 2);
    }
    if (type == &PyModule_Type) return is_named(glance, object) ? by_address(glance, BY_NAME, object) : 0;
    if (type == &PyCFunction_Type) {
        PyObject *owner = PyCFunction_GET_SELF(object);
        return !owner || PyModule_CheckExact(owner) ? by_address(glance, BY_NAME, object) : 0;
    }
    if (PyType_Check(object)) return look_at_class(glance, object);
    return look_at_instance(glance, object);
}

/* Take in one object and what it leads to: 1 if all of it is plain, 0 if not, -1 with an exception. */
static int look(Glance *glance, PyObject *object) {
    if (object == Py_None || object == Py_Ellipsis) {
        eat(glance, NOTHING | (uint64_t)(object == Py_None) << 8);
        return 1;
    }
    if (PyBool_Check(object)) {
        eat(glance, TRUTH | (uint64_t)(object == Py_True) << 8);
        return 1;
    }
    if (PyFloat_CheckExact(object)) {
        eat(glance, REAL);
        eat(glance, bits_of(PyFloat_AS_DOUBLE(object)));
        return 1;
    }
    if (PyComplex_CheckExact(object)) {
        Py_complex value = PyComplex_AsCComplex(object);
        eat(glance, PAIR_OF_REALS);
        eat(glance, bits_of(value.real));
        eat(glance, bits_of(value.imag));
        return 1;
    }
    Entry *entry = map_find(&glance->table->roots, object);
    if (entry->object && entry->unit != glance->table->unit && entry->unit != NEVER) {
        if (entry->unit != LIVE && PySet_Add(glance->table->hits, entry->pid) < 0) return -1;
        eat(glance, ELSEWHERE);
        return look(glance, entry->pid);
    }
    if (PyLong_CheckExact(object)) return look_at_number(glance, object);
    if (!entry->object && see(glance->table, object) < 0) return -1;
    entry = map_find(&glance->met, object);
    if (entry->object) {
        eat(glance, AGAIN | (uint64_t)entry->unit << 8);
        return 1;
    }
    if (glance->met.used >= GLANCE_OBJECTS || glance->depth >= GLANCE_DEPTH) return 0;
    if (map_add(&glance->met, entry, object, NULL, (long)glance->met.used) < 0) return -1;
    glance->depth++;
    Py_INCREF(object);
    int plain = look_inside(glance, object);
    Py_DECREF(object);
    glance->depth--;
    return plain;
}

/* The digest of the values of the unit that was begun, and what it must hold; None if only pickling tells. */
static PyObject *glance_at(Table *self, PyObject *const *values, Py_ssize_t count) {
    Glance glance = {.table = self, .left = SALT[0], .right = SALT[1]};
    if (map_make(&glance.met, 64) < 0) return PyErr_NoMemory();
    glance.held = PyList_New(0);
    glance.made = PyList_New(0);
    int plain = glance.held && glance.made ? 1 : -1;
    for (Py_ssize_t at = 0; plain == 1 && at < count; at++) {
        eat(&glance, (uint64_t)at);
        plain = look(&glance, values[at]);
    }
    PyMem_Free(glance.met.entries);
    PyObject *made = NULL;
    if (plain == 1) made = Py_BuildValue("(KKN)", glance.left, glance.right, PyList_AsTuple(glance.held));
    else if (plain == 0) made = Py_NewRef(Py_None);
    Py_XDECREF(glance.held);
    Py_XDECREF(glance.made);
    return made;
}

static PyObject *table_glance(Table *self, PyObject *values) {
    if (!PyTuple_CheckExact(values)) return PyErr_Format(PyExc_TypeError, "a tuple is expected");
    return glance_at(self, &PyTuple_GET_ITEM(values, 0), PyTuple_GET_SIZE(values));
}

/* Glance at units, (number, names, glance) each, and return what it gives, by number, where that is not what it was. */
static PyObject *table_differing(Table *self, PyObject *args) {
    PyObject *units, *values, *number, *names, *before;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &units, &PyDict_Type, &values)) return NULL;
    PyObject *made = PyDict_New();
    for (Py_ssize_t at = 0; made && at < PyList_GET_SIZE(units); at++) {
        PyObject *now = NULL, *chosen = NULL, *hits = NULL;
        if (PyArg_ParseTuple(PyList_GET_ITEM(units, at), "OO!O", &number, &PyTuple_Type, &names, &before))
            hits = table_begin(self, number);
        if (hits) chosen = PyTuple_New(PyTuple_GET_SIZE(names));
        for (Py_ssize_t which = 0; chosen && which < PyTuple_GET_SIZE(names); which++) {
            PyObject *value = PyDict_GetItemWithError(values, PyTuple_GET_ITEM(names, which));
            if (value) PyTuple_SET_ITEM(chosen, which, Py_NewRef(value));
            else Py_CLEAR(chosen);
        }
        if (chosen) now = table_glance(self, chosen);
        int same = now ? PyObject_RichCompareBool(now, before, Py_EQ) : -1;
        if (same < 0 || (!same && PyDict_SetItem(made, number, now) < 0)) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_KeyError, "a unit has no value");
            Py_CLEAR(made);
        }
        Py_XDECREF(now);
        Py_XDECREF(chosen);
        Py_XDECREF(hits);
    }
    return made;
}
