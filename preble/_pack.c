/* Lists of token ids to packed little-endian int32, many times as fast as `struct`: see preble/tokens.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* Store the value of `item`; return 0 if it is not exactly an int of 32 bits. */
static inline int
store(PyObject *item, unsigned char *to)
{
    long value;
    int overflow = 0;
    if (!PyLong_CheckExact(item))
        return 0;
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)item))
        value = (long)PyUnstable_Long_CompactValue((PyLongObject *)item);
    else
#else
    /* One digit of 30 bits, the usual case, without a call. */
    if (Py_SIZE(item) == 1)
        value = (long)((PyLongObject *)item)->ob_digit[0];
    else
#endif
        value = PyLong_AsLongAndOverflow(item, &overflow);
    if (overflow || value < INT32_MIN || value > INT32_MAX)
        return 0;
    uint32_t bits = (uint32_t)value;
    to[0] = (unsigned char)bits;
    to[1] = (unsigned char)(bits >> 8);
    to[2] = (unsigned char)(bits >> 16);
    to[3] = (unsigned char)(bits >> 24);
    return 1;
}

PyDoc_STRVAR(pack_integers_doc,
"pack_integers(tokens)\n--\n\n"
"Return a list or tuple of ints as little-endian int32 bytes, None if it is or holds anything else.");

static PyObject *
pack_integers(PyObject *Py_UNUSED(module), PyObject *tokens)
{
    if (!PyList_CheckExact(tokens) && !PyTuple_CheckExact(tokens))
        Py_RETURN_NONE;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(tokens);
    if (count > PY_SSIZE_T_MAX / 4)
        Py_RETURN_NONE;
    PyObject *packed = PyBytes_FromStringAndSize(NULL, 4 * count);
    if (packed == NULL)
        return NULL;
    PyObject **items = PySequence_Fast_ITEMS(tokens); /* nothing below runs Python code that could change them */
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(packed);
    for (Py_ssize_t i = 0; i < count; i++, to += 4) {
        if (!store(items[i], to)) {
            Py_DECREF(packed);
            Py_RETURN_NONE;
        }
    }
    return packed;
}

static PyMethodDef methods[] = {
    {"pack_integers", pack_integers, METH_O, pack_integers_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "preble._pack", .m_doc = "Packing token ids.", .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__pack(void)
{
    return PyModuleDef_Init(&definition);
}
