/* What is known of each task and future of the process: the number it hashes by, and whose child a task is.
 *
 * CPython's own classes are used as they are: asyncio awaits a subclass on a slow path, and a task that is one costs
 * half as much again. So what is known stands in a table by address, from which an object is taken as it is freed.
 * births.py holds the substitute in Python, with the same numbers.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#ifdef Py_GIL_DISABLED
#error "the table has no lock of its own"
#endif

typedef struct {
    void *object;
    Py_hash_t number; /* 0: not hashed yet */
    PyObject *who;    /* a node; NULL: nobody said */
    long nth;         /* which child of that node it is; 0: it is the node itself */
} Entry;

static Entry *entries;
static size_t mask, used;
static Py_hash_t next_number = 1;
static unsigned long long names; /* of tasks that were given none */
static PyObject *running_loop, *current_task, *births_name, *task_keywords;
static destructor task_freed, future_freed;

static size_t place_of(const void *object) {
    return (size_t)(((uintptr_t)object >> 4) * 0x9E3779B97F4A7C15ull >> 20) & mask;
}

static Entry *find(const void *object) {
    size_t place = place_of(object);
    while (entries[place].object && entries[place].object != object) place = (place + 1) & mask;
    return &entries[place];
}

static int grow(void) {
    Entry *before = entries;
    size_t count = before ? mask + 1 : 0, size = count ? count * 2 : 256;
    entries = PyMem_Calloc(size, sizeof(Entry));
    if (!entries) {
        entries = before;
        PyErr_NoMemory();
        return -1;
    }
    mask = size - 1;
    for (size_t i = 0; i < count; i++)
        if (before[i].object) *find(before[i].object) = before[i];
    PyMem_Free(before);
    return 0;
}

static Entry *entry_of(void *object) {
    Entry *entry = find(object);
    if (entry->object) return entry;
    if (used * 3 >= mask * 2) {
        if (grow() < 0) return NULL;
        entry = find(object);
    }
    entry->object = object;
    used++;
    return entry;
}

/* Those behind it move up: a mark in its place would have to be searched past for ever. */
static PyObject *take_out(const void *object) {
    Entry *entry = find(object);
    if (!entry->object) return NULL;
    PyObject *who = entry->who;
    size_t hole = (size_t)(entry - entries);
    for (size_t at = (hole + 1) & mask; entries[at].object; at = (at + 1) & mask) {
        size_t home = place_of(entries[at].object);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            entries[hole] = entries[at];
            hole = at;
        }
    }
    memset(&entries[hole], 0, sizeof(Entry));
    used--;
    return who;
}

static Py_hash_t hash_of(PyObject *object) {
    Entry *entry = entry_of(object);
    if (!entry) return -1;
    if (!entry->number) entry->number = next_number++;
    return entry->number;
}

/* Finalizers run before an object is taken out: what they put into a set has to be found there again. */
static void forget_and(PyObject *object, destructor go_on) {
    if (PyObject_CallFinalizerFromDealloc(object) < 0) return;
    PyObject *who = take_out(object);
    go_on(object);
    Py_XDECREF(who);
}

static void task_dealloc(PyObject *object) { forget_and(object, task_freed); }
static void future_dealloc(PyObject *object) { forget_and(object, future_freed); }

/* The slot, and the method that shows it: a subclass made later takes its slot from the method. */
static int hash_by_birth(PyTypeObject *type) {
    PyObject *base = PyType_GetDict(&PyBaseObject_Type), *dict = PyType_GetDict(type), *ours = NULL;
    PyObject *theirs = base ? PyDict_GetItemString(base, "__hash__") : NULL;
    if (theirs && Py_IS_TYPE(theirs, &PyWrapperDescr_Type))
        ours = PyDescr_NewWrapper(type, ((PyWrapperDescrObject *)theirs)->d_base, (void *)hash_of);
    else
        PyErr_SetString(PyExc_RuntimeError, "object.__hash__ is not what it was");
    int failed = !ours || !dict || PyDict_SetItemString(dict, "__hash__", ours) < 0;
    Py_XDECREF(ours);
    Py_XDECREF(dict);
    Py_XDECREF(base);
    if (failed) return -1;
    type->tp_hash = hash_of;
    PyType_Modified(type);
    return 0;
}

static PyObject *install(PyObject *Py_UNUSED(module), PyObject *args) {
    PyTypeObject *task, *future;
    PyObject *others;
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyType_Type, &task, &PyType_Type, &future, &PyTuple_Type, &others))
        return NULL;
    if (task_freed) Py_RETURN_NONE;
    hashfunc theirs = future->tp_hash;
    if (hash_by_birth(task) < 0 || hash_by_birth(future) < 0) return NULL;
    task_freed = task->tp_dealloc;
    future_freed = future->tp_dealloc;
    task->tp_dealloc = task_dealloc;
    future->tp_dealloc = future_dealloc;
    /* Subclasses that are there already have the slot of before. */
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(others); i++) {
        PyTypeObject *other = (PyTypeObject *)PyTuple_GET_ITEM(others, i);
        if (other->tp_hash == theirs) other->tp_hash = hash_of;
        PyType_Modified(other);
    }
    Py_RETURN_NONE;
}

static PyObject *set_birth(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "set_birth(task, node, nth)");
        return NULL;
    }
    long nth = PyLong_AsLong(args[2]);
    Entry *entry = nth == -1 && PyErr_Occurred() ? NULL : entry_of(args[0]);
    if (!entry) return NULL;
    PyObject *before = entry->who;
    entry->who = Py_NewRef(args[1]);
    entry->nth = nth;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *birth(PyObject *Py_UNUSED(module), PyObject *task) {
    Entry *entry = find(task);
    if (!entry->object || !entry->who) Py_RETURN_NONE;
    if (!entry->nth) return Py_NewRef(entry->who);
    return Py_BuildValue("Ol", entry->who, entry->nth);
}

/* The node of the task that runs on this loop now; NULL without an error where Python has to find out. */
static PyObject *node_of_now(PyObject *loop) {
    PyObject *running = PyObject_CallNoArgs(running_loop);
    Py_XDECREF(running);
    if (running != loop) return NULL;
    PyObject *task = PyObject_CallOneArg(current_task, loop);
    if (!task) return NULL;
    Entry *entry = find(task);
    Py_DECREF(task);
    return entry->object && !entry->nth ? Py_XNewRef(entry->who) : NULL;
}

/* bear(task_type, loop, coroutine, name, context): the next child of whoever runs on the loop; None: Python has to. */
static PyObject *bear(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "bear(task_type, loop, coroutine, name, context)");
        return NULL;
    }
    PyObject *node = node_of_now(args[1]);
    if (!node) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_NONE;
    }
    PyObject *name = NULL, *nth = NULL, *task = NULL, *before = PyObject_GetAttr(node, births_name);
    long number = before ? PyLong_AsLong(before) + 1 : 0;
    if (number > 0) nth = PyLong_FromLong(number);
    if (nth && PyObject_SetAttr(node, births_name, nth) == 0)
        name = args[3] == Py_None ? PyUnicode_FromFormat("Task-%llu", ++names) : Py_NewRef(args[3]);
    if (name) {
        PyObject *given[] = {args[2], args[1], name, args[4]};
        task = PyObject_Vectorcall(args[0], given, 1, task_keywords);
    }
    Entry *entry = task ? entry_of(task) : NULL;
    if (entry) {
        entry->who = Py_NewRef(node);
        entry->nth = number;
    } else
        Py_CLEAR(task);
    Py_XDECREF(before);
    Py_XDECREF(nth);
    Py_XDECREF(name);
    Py_DECREF(node);
    return task;
}

static PyObject *state(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
    return Py_BuildValue("nK", (Py_ssize_t)next_number, names);
}

static PyObject *set_state(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_ssize_t number;
    unsigned long long given;
    if (!PyArg_ParseTuple(args, "nK", &number, &given)) return NULL;
    next_number = number;
    names = given;
    Py_RETURN_NONE;
}

static PyObject *next_name(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
    return PyUnicode_FromFormat("Task-%llu", ++names);
}

static PyObject *number(PyObject *Py_UNUSED(module), PyObject *object) {
    return PyLong_FromSsize_t(find(object)->number);
}

static PyObject *size(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) { return PyLong_FromSize_t(used); }

static PyMethodDef methods[] = {
    {"install", install, METH_VARARGS, "install(task, future, subclasses)"},
    {"set_birth", (PyCFunction)(void (*)(void))set_birth, METH_FASTCALL, "set_birth(task, node, nth)"},
    {"birth", birth, METH_O, "birth(task) -> node | (node, nth) | None"},
    {"bear", (PyCFunction)(void (*)(void))bear, METH_FASTCALL, "bear(task_type, loop, coroutine, name, context)"},
    {"next_name", next_name, METH_NOARGS, "next_name() -> str"},
    {"state", state, METH_NOARGS, "state() -> (number, names)"},
    {"set_state", set_state, METH_VARARGS, "set_state(number, names)"},
    {"number", number, METH_O, "number(future) -> int, 0 if it was not hashed yet"},
    {"size", size, METH_NOARGS, "size() -> int"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_births", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__births(void);
PyMODINIT_FUNC PyInit__births(void) {
    PyObject *asyncio = PyImport_ImportModule("_asyncio");
    if (!asyncio) return NULL;
    running_loop = PyObject_GetAttrString(asyncio, "_get_running_loop");
    current_task = PyObject_GetAttrString(asyncio, "current_task");
    Py_DECREF(asyncio);
    births_name = PyUnicode_InternFromString("births");
    task_keywords = Py_BuildValue("(sss)", "loop", "name", "context");
    if (!running_loop || !current_task || !births_name || !task_keywords || (!entries && grow() < 0)) return NULL;
    return PyModule_Create(&definition);
}
