/* Makes what a zygote has immortal, so that its guests share it for good.
 *
 * Whoever only looks at an object writes its count of references into the page that it lies in, and every guest that
 * does so holds a copy of that page. An immortal object's count is never written (PEP 683), and it is never freed:
 * what a zygote has belongs to modules, and to the guest that was made there, and is not freed anyhow.
 *
 * It is called from Python, before the fork, so no call of C is under way that holds an object whose count it looks at
 * to change it in place. The versions of Python below set immortal objects aside when they collect; in others nothing
 * is done. sharing.py says what stands in for this where it was not built: nothing, at the price of memory.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED) && SIZEOF_VOID_P > 4

/* What was reached and is not looked into yet. */
typedef struct {
    PyObject **items;
    size_t length, room;
    Py_ssize_t made;
    int failed;
} Work;

static void push(Work *work, PyObject *object) {
    if (work->length == work->room) {
        size_t room = work->room ? 2 * work->room : 1024;
        PyObject **items = PyMem_RawRealloc(work->items, room * sizeof *items);
        if (!items) {
            work->failed = 1;
            return;
        }
        work->items = items;
        work->room = room;
    }
    work->items[work->length++] = object;
}

static int reach(PyObject *object, void *argument) {
    Work *work = argument;
    if (!object || _Py_IsImmortal(object)) return 0;
    Py_SET_REFCNT(object, _Py_IMMORTAL_REFCNT);
    work->made++;
    /* What the collector tracks is in the list itself, and code is no container to it. */
    if (PyCode_Check(object) || (PyObject_IS_GC(object) && !PyObject_GC_IsTracked(object))) push(work, object);
    return 0;
}

static void reach_inside(PyObject *object, Work *work) {
    if (PyCode_Check(object)) {
        PyCodeObject *code = (PyCodeObject *)object;
        PyObject *parts[] = {code->co_consts,           code->co_names,    code->co_exceptiontable,
                             code->co_localsplusnames,  code->co_filename, code->co_name,
                             code->co_localspluskinds,  code->co_qualname, code->co_linetable};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) reach(parts[i], work);
        return;
    }
    /* A built-in type is no heap object, and has no traverse that takes it. */
    if (PyType_Check(object) && !PyType_HasFeature((PyTypeObject *)object, Py_TPFLAGS_HEAPTYPE)) return;
    traverseproc traverse = Py_TYPE(object)->tp_traverse;
    if (traverse) traverse(object, reach, work);
}

static Py_ssize_t settle_all(PyObject *objects) {
    Work work = {0};
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(objects) && !work.failed; i++) {
        PyObject *object = PyList_GET_ITEM(objects, i);
        /* The caller's own frame and list end with the call. */
        if (object == objects || PyFrame_Check(object)) continue;
        reach(object, &work);
        reach_inside(object, &work);
        while (work.length && !work.failed) reach_inside(work.items[--work.length], &work);
    }
    PyMem_RawFree(work.items);
    if (work.failed) {
        PyErr_NoMemory();
        return -1;
    }
    return work.made;
}

#else

static Py_ssize_t settle_all(PyObject *objects) {
    (void)objects;
    return 0;
}

#endif

static PyObject *settle(PyObject *Py_UNUSED(module), PyObject *objects) {
    if (!PyList_CheckExact(objects)) {
        PyErr_SetString(PyExc_TypeError, "a list of objects is wanted");
        return NULL;
    }
    Py_ssize_t made = settle_all(objects);
    return made < 0 ? NULL : PyLong_FromSsize_t(made);
}

static PyMethodDef methods[] = {
    {"settle", settle, METH_O, "settle(objects) -> how many they are, with what only they lead to"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_forever", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__forever(void);
PyMODINIT_FUNC PyInit__forever(void) { return PyModuleDef_Init(&definition); }
