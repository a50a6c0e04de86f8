/* The walk down the tree without the interpreter: see preble/tree/walk.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define TOKEN_BYTES 4
#define STRIP 64 /* bytes that are compared at once in the edge where prompts part */

/* Columns of the tree by node number: edges are bytes, children None or a dict, holders ints. */
enum { EDGE, CHILDREN, HOLDERS, COLUMNS };

typedef struct {
    PyObject **columns[COLUMNS];
    Py_ssize_t nodes;
    const char *prompt;
    Py_ssize_t size, stride;
} Tree;

typedef struct {
    Py_ssize_t node, position, taken;
} Cursor;

static Py_ssize_t
common_prefix(const char *one, const char *other, Py_ssize_t size)
{
    Py_ssize_t same = 0;
    while (same + STRIP <= size && memcmp(one + same, other + same, STRIP) == 0)
        same += STRIP;
    while (same < size && one[same] == other[same])
        same++;
    return same;
}

/* Return the child that begins as the prompt goes on, 0 if there is none, or -1 with an exception. */
static Py_ssize_t
child_of(const Tree *tree, const Cursor *at)
{
    PyObject *children = tree->columns[CHILDREN][at->node];
    if (children == Py_None || tree->size - at->position < tree->stride)
        return 0;
    PyObject *key = PyBytes_FromStringAndSize(tree->prompt + at->position, tree->stride);
    if (key == NULL)
        return -1;
    PyObject *number = PyDict_GetItemWithError(children, key);
    Py_DECREF(key);
    if (number == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_ssize_t child = PyLong_AsSsize_t(number);
    if (child <= 0 || child >= tree->nodes || !PyBytes_CheckExact(tree->columns[EDGE][child])) {
        PyErr_SetString(PyExc_SystemError, "a child that is no node");
        return -1;
    }
    return child;
}

/* Go down the edge of `child` as far as it is the prompt's; return whether that is all of it. */
static int
descend(const Tree *tree, Cursor *at, Py_ssize_t child)
{
    PyObject *edge = tree->columns[EDGE][child];
    Py_ssize_t length = PyBytes_GET_SIZE(edge), left = tree->size - at->position;
    const char *here = tree->prompt + at->position;
    int whole = length <= left && memcmp(here, PyBytes_AS_STRING(edge), (size_t)length) == 0;
    at->taken = length;
    if (!whole) {
        at->taken = common_prefix(here, PyBytes_AS_STRING(edge), length < left ? length : left);
        at->taken -= at->taken % tree->stride;
    }
    at->node = child;
    at->position += at->taken;
    return whole;
}

static int
append_level(PyObject *levels, Py_ssize_t position, PyObject *mask)
{
    PyObject *level = Py_BuildValue("(nO)", position / TOKEN_BYTES, mask);
    int failed = level == NULL || PyList_Append(levels, level) < 0;
    Py_XDECREF(level);
    return failed ? -1 : 0;
}

/* Return whether a worker less holds `below` than what is above it, or -1 with an exception. */
static int
fewer(PyObject *below, PyObject *mask)
{
    return below == mask ? 0 : PyObject_RichCompareBool(below, mask, Py_NE);
}

/* Walk down and append to `levels` how many tokens are held by whom; return -1 with an exception if it can't be. */
static int
walk_down(const Tree *tree, Cursor *at, PyObject *levels)
{
    PyObject *mask = NULL;
    Py_ssize_t child;
    int whole = 1;
    while (whole && (child = child_of(tree, at)) != 0) {
        if (child < 0)
            return -1;
        PyObject *below = tree->columns[HOLDERS][child];
        int changed = mask == NULL ? 0 : fewer(below, mask);
        if (changed < 0 || (changed && append_level(levels, at->position, mask) < 0))
            return -1;
        mask = below;
        whole = descend(tree, at, child);
    }
    return mask == NULL ? 0 : append_level(levels, at->position, mask);
}

static PyObject *
answer(const Tree *tree)
{
    Cursor at = {0, 0, 0};
    PyObject *levels = PyList_New(0);
    if (levels == NULL)
        return NULL;
    int collecting = PyGC_Disable(); /* what a finalizer did to the tree would pull it away from under us */
    int failed = walk_down(tree, &at, levels);
    if (collecting)
        PyGC_Enable();
    if (failed) {
        Py_DECREF(levels);
        return NULL;
    }
    return Py_BuildValue("(Nnnn)", levels, at.position / TOKEN_BYTES, at.node, at.taken / TOKEN_BYTES);
}

PyDoc_STRVAR(walk_doc,
"walk(prompt, stride, edge, children, holders)\n--\n\n"
"Return (levels, tokens, node, offset), as a Match has them.");

static PyObject *
walk(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 + COLUMNS || !PyBytes_CheckExact(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "walk takes a prompt in bytes, a stride and three columns");
        return NULL;
    }
    Tree tree = {.prompt = PyBytes_AS_STRING(arguments[0]), .size = PyBytes_GET_SIZE(arguments[0])};
    tree.stride = PyLong_AsSsize_t(arguments[1]);
    if (tree.stride < 1) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the stride must be at least 1 byte");
        return NULL;
    }
    Py_buffer columns[COLUMNS];
    int held = 0;
    PyObject *result = NULL;
    while (held < COLUMNS && PyObject_GetBuffer(arguments[2 + held], &columns[held], PyBUF_SIMPLE) == 0) {
        tree.columns[held] = columns[held].buf;
        held++;
    }
    if (held == COLUMNS) {
        tree.nodes = columns[EDGE].len / (Py_ssize_t)sizeof(PyObject *);
        if (tree.nodes < 1 || columns[CHILDREN].len != columns[EDGE].len || columns[HOLDERS].len != columns[EDGE].len)
            PyErr_SetString(PyExc_ValueError, "columns without the root, or of several lengths");
        else
            result = answer(&tree);
    }
    while (held > 0)
        PyBuffer_Release(&columns[--held]);
    return result;
}

static PyMethodDef methods[] = {
    {"walk", (PyCFunction)(void (*)(void))walk, METH_FASTCALL, walk_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "preble.tree._walk", .m_doc = "Walking down a radix tree.", .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__walk(void)
{
    return PyModuleDef_Init(&definition);
}
