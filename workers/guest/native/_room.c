/* Room for a load: memory in huge pages, where the kernel gives them.
 *
 * A page of 4 kB costs a fault when it is first touched, which takes longer than filling it. room.py says what for.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE ((size_t)2 << 20)

/* Addresses that arenas of small objects are taken from: they become memory two megabytes at a time, since limits count
 * what could be written to, and what is left of them goes back when the load ends. */
typedef struct Region {
    char *start, *next, *usable, *end;
    struct Region *older;
} Region;

static Region *regions;
static int taking;
static PyObjectArenaAllocator before;

static void *take(void *Py_UNUSED(context), size_t size) {
    Region *region = regions;
    if (taking && size <= HUGE && size <= (size_t)(region->end - region->next)) {
        char *arena = region->next;
        if (arena + size <= region->usable || !mprotect(region->usable, HUGE, PROT_READ | PROT_WRITE)) {
            if (arena + size > region->usable) region->usable += HUGE;
            region->next += size;
            return arena;
        }
    }
    return before.alloc(before.ctx, size);
}

/* Arenas outlive the load: this stays in place, and tells ours from others. */
static void give_back(void *Py_UNUSED(context), void *arena, size_t size) {
    for (Region *region = regions; region; region = region->older)
        if ((char *)arena >= region->start && (char *)arena < region->end) {
            munmap(arena, size);
            return;
        }
    before.free(before.ctx, arena, size);
}

static Region *reserve(size_t size) {
    Region *region = malloc(sizeof(Region));
    if (!region) return NULL;
    size = (size + HUGE - 1) / HUGE * HUGE;
    char *memory = mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(region);
        return NULL;
    }
    char *start = memory + (HUGE - (uintptr_t)memory % HUGE) % HUGE;
    if (start > memory) munmap(memory, start - memory);
    munmap(start + size, memory + HUGE - start);
    if (madvise(start, size, MADV_HUGEPAGE) < 0) {
        munmap(start, size);
        free(region);
        return NULL;
    }
    *region = (Region){start, start, start, start + size, regions};
    return region;
}

static PyObject *begin(PyObject *Py_UNUSED(module), PyObject *size) {
    size_t wanted = PyLong_AsSize_t(size);
    if (PyErr_Occurred()) return NULL;
    Region *region = NULL;
    /* As much of it as the limits allow. */
    for (; !taking && !region && wanted >= HUGE; wanted /= 2) region = reserve(wanted);
    if (!region) Py_RETURN_FALSE;
    if (!before.alloc) {
        PyObject_GetArenaAllocator(&before);
        PyObject_SetArenaAllocator(&(PyObjectArenaAllocator){NULL, take, give_back});
    }
    regions = region;
    taking = 1;
    Py_RETURN_TRUE;
}

static PyObject *end(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
    if (taking) {
        Region *region = regions;
        taking = 0;
        if (region->next < region->end) munmap(region->next, region->end - region->next);
        region->end = region->next;
        if (region->start == region->end) {
            regions = region->older;
            free(region);
        }
    }
    Py_RETURN_NONE;
}

/* Make a bytearray so long, with anything in it: who asks fills all of it. */
static PyObject *stretch(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *array;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyByteArray_Type, &array, &size)) return NULL;
    if (PyByteArray_Resize(array, size) < 0) return NULL;
    uintptr_t start = (uintptr_t)PyByteArray_AS_STRING(array), end = start + (size_t)size;
    start = (start + HUGE - 1) / HUGE * HUGE;
    end = end / HUGE * HUGE;
    if (start < end) madvise((void *)start, end - start, MADV_HUGEPAGE);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {{"begin", begin, METH_O, NULL},
                                  {"end", end, METH_NOARGS, NULL},
                                  {"stretch", stretch, METH_VARARGS, NULL},
                                  {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_room", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__room(void);
PyMODINIT_FUNC PyInit__room(void) { return PyModule_Create(&definition); }
