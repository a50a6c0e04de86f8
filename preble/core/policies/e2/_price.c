/* The least of L + w P + M + D over all workers, without an array for every step: see preble/core/policies/e2/price.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST_SLOTS 1024
#define CLEAR (1 + 1e-9) /* times the least cost: who is within is a tie, however it was rounded */
#define CERTAIN (1 - 1e-12) /* keeps the logarithm finite */
#define NUMBERS 7

/* The rows of a fleet's table, in its order. */
enum { LOAD, PENDING, FREE, EVICTION_SECONDS_PER_TOKEN, REQUESTS, WAITING, OVERTAKABLE, UNCACHED, BLOCK, NEW, PRODUCT, ROWS };

typedef struct {
    double length, base, if_busy, per_request, tokens, rate, spread;
} Prompt;

typedef struct {
    Py_ssize_t slot, lightest;
    int clear;
} Least;

/* Set bytes to the bits of `mask`, little-endian; return -1 with an exception if it is no such int. */
static int
bits_of(PyObject *mask, unsigned char *bytes, Py_ssize_t size)
{
    if (!PyLong_Check(mask)) {
        PyErr_SetString(PyExc_TypeError, "a mask must be an int");
        return -1;
    }
#if PY_VERSION_HEX >= 0x030D0000
    int flags = Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER | Py_ASNATIVEBYTES_REJECT_NEGATIVE;
    Py_ssize_t needed = PyLong_AsNativeBytes(mask, bytes, size, flags);
    if (needed > size)
        PyErr_SetString(PyExc_OverflowError, "a mask must have no bit above the last slot");
    return needed < 0 || needed > size ? -1 : 0;
#else
    return _PyLong_AsByteArray((PyLongObject *)mask, bytes, (size_t)size, 1, 0);
#endif
}

/* Set what each slot holds of the prompt, from the root down, before blocks; return -1 with an exception if it can't. */
static int
fill_held(PyObject *levels, double longest, double *held, Py_ssize_t slots)
{
    unsigned char bytes[MOST_SLOTS / 8];
    Py_ssize_t size = (slots + 7) / 8;
    for (Py_ssize_t level = 0; level < PyList_GET_SIZE(levels); level++) {
        PyObject *pair = PyList_GET_ITEM(levels, level);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "a level must be a depth and a mask");
            return -1;
        }
        double usable = PyLong_AsDouble(PyTuple_GET_ITEM(pair, 0));
        if (PyErr_Occurred() || bits_of(PyTuple_GET_ITEM(pair, 1), bytes, size) < 0)
            return -1;
        usable = usable < longest ? usable : longest;
        for (Py_ssize_t slot = 0; slot < slots; slot++)
            if (bytes[slot / 8] >> (slot % 8) & 1)
                held[slot] = usable;
    }
    return 0;
}

/* Find the least load; return how many slots are near it, each counted by how near. */
static double
alike(const double *load, Py_ssize_t slots, const Prompt *prompt, Least *found)
{
    double lightest = INFINITY, near = 0;
    for (Py_ssize_t slot = 0; slot < slots; slot++) {
        if (load[slot] < lightest) {
            lightest = load[slot];
            found->lightest = slot;
        }
    }
    for (Py_ssize_t slot = 0; prompt->rate > 0 && slot < slots; slot++)
        near += exp((lightest - load[slot]) / prompt->spread);
    return near;
}

/* The D of a slot whose load is `above` the least: see preble/core/policies/e2/future_delay.py. */
static double
future_delay(double above, double prefill, double near, const Prompt *prompt)
{
    double taken = exp(-above / prompt->spread) / near * -expm1(-prefill / prompt->spread);
    return prompt->rate * prefill * prompt->spread * -log1p(-(taken < CERTAIN ? taken : CERTAIN));
}

/* Cut what is held to whole blocks, price every slot, and find the least. */
static Least
priced(const double *load, const double *table, Py_ssize_t slots, double *held, const Prompt *prompt)
{
    const double *free_tokens = table + FREE * slots, *eviction_seconds = table + EVICTION_SECONDS_PER_TOKEN * slots;
    const double *requests = table + REQUESTS * slots, *waiting = table + WAITING * slots;
    const double *overtakable = table + OVERTAKABLE * slots, *block = table + BLOCK * slots;
    const double *new = table + NEW * slots, *product = table + PRODUCT * slots;
    double least = INFINITY, second = INFINITY;
    Least found = {-1, -1, 0};
    double near = alike(load, slots, prompt, &found);
    for (Py_ssize_t slot = 0; slot < slots; slot++) {
        if (block[slot] > 1)
            held[slot] -= (uint32_t)held[slot] % (uint32_t)block[slot];
        double weight = prompt->base + prompt->if_busy * (requests[slot] > 0) + prompt->per_request * requests[slot];
        double prefill = (new[slot] + product[slot] * prompt->length) * (prompt->length - held[slot]);
        double excess = prompt->tokens - (held[slot] + free_tokens[slot]);
        double overtaken = overtakable[slot] - waiting[slot] * prefill;
        double queue_delay = load[slot] - (overtaken > 0 ? overtaken : 0.0);
        double cost = queue_delay + weight * prefill + (excess > 0 ? excess * eviction_seconds[slot] : 0.0);
        if (prompt->rate > 0 && cost <= least * CLEAR && load[slot] < INFINITY)
            cost += future_delay(load[slot] - load[found.lightest], prefill, near, prompt); /* never less than 0 */
        if (cost < least) {
            second = least;
            least = cost;
            found.slot = slot;
        } else if (cost < second) {
            second = cost;
        }
    }
    found.clear = second > least * CLEAR;
    return found;
}

/* `buffers` are the load and the table. */
static PyObject *
answer(const Py_buffer *buffers, PyObject *levels, Prompt prompt)
{
    double held[MOST_SLOTS];
    Py_ssize_t slots = buffers[0].len / (Py_ssize_t)sizeof(double);
    if (buffers[1].len != buffers[0].len * ROWS || !PyList_Check(levels)) {
        PyErr_SetString(PyExc_ValueError, "not the table of that load, or levels that are no list");
        return NULL;
    }
    if (slots > MOST_SLOTS)
        Py_RETURN_NONE;
    memset(held, 0, (size_t)buffers[0].len);
    if (fill_held(levels, prompt.length - 1, held, slots) < 0)
        return NULL;
    Least found = priced(buffers[0].buf, buffers[1].buf, slots, held, &prompt);
    if (!found.clear || found.slot < 0 || found.lightest < 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(nlnl)", found.slot, (long)held[found.slot], found.lightest, (long)held[found.lightest]);
}

PyDoc_STRVAR(cheapest_doc,
"cheapest(load, table, levels, (length, base, if_busy, per_request, tokens, rate, spread))\n--\n\n"
"Return (slot of least cost, tokens cached there, slot of least load, tokens cached there), None if that is no clear\n"
"case: others cost as little, nobody takes requests, or there are too many slots.");

static PyObject *
cheapest(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 4 || !PyTuple_Check(arguments[3]) || PyTuple_GET_SIZE(arguments[3]) != NUMBERS) {
        PyErr_SetString(PyExc_TypeError, "cheapest takes a load, a table, levels and seven numbers");
        return NULL;
    }
    double numbers[NUMBERS];
    for (int index = 0; index < NUMBERS; index++)
        numbers[index] = PyFloat_AsDouble(PyTuple_GET_ITEM(arguments[3], index));
    if (PyErr_Occurred())
        return NULL;
    Prompt prompt = {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
    Py_buffer buffers[2];
    if (PyObject_GetBuffer(arguments[0], &buffers[0], PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *result = NULL;
    if (PyObject_GetBuffer(arguments[1], &buffers[1], PyBUF_SIMPLE) == 0) {
        result = answer(buffers, arguments[2], prompt);
        PyBuffer_Release(&buffers[1]);
    }
    PyBuffer_Release(&buffers[0]);
    return result;
}

static PyMethodDef methods[] = {
    {"cheapest", (PyCFunction)(void (*)(void))cheapest, METH_FASTCALL, cheapest_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "preble.core.policies.e2._price", .m_doc = "Pricing workers.", .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__price(void)
{
    return PyModuleDef_Init(&definition);
}
