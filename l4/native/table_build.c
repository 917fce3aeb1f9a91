// SPDX-License-Identifier: Apache-2.0
/*
 * The arithmetic of forwarding tables, compiled: flow hash, Maglev owners of rows, owner chains.
 *
 * l4/flow_hash.py, l4/maglev.py and l4/forwarding.py say what these mean, and are what the product
 * calls; table_build.pyi has the signatures. Arguments are checked here all the same, so that no
 * input can make this read or write outside its buffers, or loop for ever.
 *
 * What takes long runs without the interpreter's lock: agents build tables in a thread beside
 * their event loop. Meanwhile the buffers of the arguments are held, and must not be changed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* 16 bits name a member, and 0 names none. */
#define IDENTIFIERS 65536
#define NOBODY 0

/* Ten times the largest table that the contract allows. */
#define MAX_ROWS (1 << 23)

/* Places in a row; as OWNERS_PER_ROW in l4/bpf/forwarding.h. */
#define MAX_OWNERS 4

/* Rows whose chains are worked on at once, so that they stay in the first-level cache. */
#define BLOCK 2048

struct key {
	uint64_t k0, k1;
};

/* SipHash-1-3 (Aumasson and Bernstein, 2012): one round for each word, three at the end. */

#define ROTATE(word, bits) ((word) << (bits) | (word) >> (64 - (bits)))

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[3];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[2] = ROTATE(v[2], 32);
}

static uint64_t siphash13(struct key key, const uint8_t *message, size_t length)
{
	uint64_t v[4] = {
	    key.k0 ^ 0x736f6d6570736575,
	    key.k1 ^ 0x646f72616e646f6d,
	    key.k0 ^ 0x6c7967656e657261,
	    key.k1 ^ 0x7465646279746573,
	};
	size_t whole = length / 8 * 8;

	for (size_t at = 0; at <= whole; at += 8) {
		uint64_t word = 0;
		size_t octets = at < whole ? 8 : length - whole;

		for (size_t octet = 0; octet < octets; octet++)
			word |= (uint64_t)message[at + octet] << 8 * octet;
		if (at == whole)
			word |= (uint64_t)length << 56;
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	for (int round = 0; round < 3; round++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Maglev (Eisenbud et al., NSDI 2016, section 3.4). */

struct contender {
	uint32_t row; /* next of its permutation */
	uint32_t skip;
	uint32_t due; /* share of a turn that has come up, in parts of the heaviest weight */
	uint16_t weight;
	uint16_t id;
};

/* All rows, in an order of the member's own, as the number of rows is prime. */
static void draw_permutation(struct contender *contender, struct key key, uint32_t rows)
{
	uint8_t message[8] = {
	    'm', 'a', 'g', 'l', 'e', 'v', contender->id >> 8, contender->id & 0xff,
	};
	uint64_t drawn = siphash13(key, message, sizeof message);

	contender->row = (drawn & 0xffffffff) % rows;
	contender->skip = (drawn >> 32) % (rows - 1) + 1;
}

/* The first row of its permutation that is still free. `taken` has a bit for each row: unlike
 * `owners`, it fits into the first-level cache. */
static inline void take_row(struct contender *contender, uint32_t rows, uint64_t *taken,
			    uint16_t *owners)
{
	uint32_t row = contender->row;

	while (taken[row / 64] >> row % 64 & 1) {
		row += contender->skip;
		if (row >= rows)
			row -= rows;
	}
	taken[row / 64] |= (uint64_t)1 << row % 64;
	owners[row] = contender->id;
	contender->row = row;
}

/* In each round a member is due its weight's part of the heaviest one's turn. Without a weight
 * above 0, all rows are left to nobody. */
static void share_rows(struct contender *contenders, size_t count, uint32_t rows, uint64_t *taken,
		       uint16_t *owners)
{
	uint32_t heaviest = 0, left = rows;

	for (size_t i = 0; i < count; i++)
		if (contenders[i].weight > heaviest)
			heaviest = contenders[i].weight;
	while (heaviest) {
		for (size_t i = 0; i < count; i++) {
			contenders[i].due += contenders[i].weight;
			if (contenders[i].due < heaviest)
				continue;
			contenders[i].due -= heaviest;
			take_row(&contenders[i], rows, taken, owners);
			if (!--left)
				return;
		}
	}
}

static bool is_prime(uint32_t number)
{
	for (uint32_t divisor = 2; divisor * divisor <= number; divisor++)
		if (number % divisor == 0)
			return false;
	return number > 1;
}

/* Owner chains. */

/*
 * The chains of rows `start` to `end`, from the newest column of owners to the oldest. Returns how
 * many of them have more owners than `places`. A row that neighbours in time give to the same owner
 * is the usual case, and costs a comparison.
 */
static uint32_t merge_block(const uint16_t *const *columns, size_t count, const uint8_t *reachable,
			    unsigned places, size_t start, size_t end, uint16_t *chains)
{
	uint8_t lengths[BLOCK] = {0};
	uint32_t overflowed = 0;

	for (size_t column = 0; column < count; column++) {
		const uint16_t *owners = columns[column];

		for (size_t row = start; row < end; row++) {
			uint16_t *chain = chains + row * MAX_OWNERS;
			uint8_t *length = &lengths[row - start];
			uint16_t owner = owners[row];

			/* An empty place equals NOBODY, which is in no chain either. */
			if (owner == chain[0] || owner == chain[1] || owner == chain[2] ||
			    owner == chain[3])
				continue;
			if (!reachable[owner])
				continue;
			if (*length < places) {
				chain[(*length)++] = owner;
			} else if (*length == places) {
				*length = places + 1; /* counted once */
				overflowed++;
			}
		}
	}
	return overflowed;
}

/* Between Python and the above. */

static int half_of_key(PyObject *number, void *half)
{
	unsigned long long value = PyLong_AsUnsignedLongLong(number);

	if (PyErr_Occurred())
		return 0;
	*(uint64_t *)half = value;
	return 1;
}

static PyObject *py_siphash13(PyObject *Py_UNUSED(module), PyObject *arguments)
{
	struct key key;
	Py_buffer message;
	uint64_t hashed;

	if (!PyArg_ParseTuple(arguments, "O&O&y*:siphash13", half_of_key, &key.k0, half_of_key,
			      &key.k1, &message))
		return NULL;
	hashed = siphash13(key, message.buf, message.len);
	PyBuffer_Release(&message);
	return PyLong_FromUnsignedLongLong(hashed);
}

static PyObject *py_flow_hash(PyObject *Py_UNUSED(module), PyObject *arguments)
{
	struct key key;
	Py_buffer source, destination;
	Py_ssize_t source_port, destination_port, protocol;
	PyObject *result = NULL;
	uint8_t flow[40] = {0}, *at = flow;

	if (!PyArg_ParseTuple(arguments, "O&O&y*y*nnn:flow_hash", half_of_key, &key.k0, half_of_key,
			      &key.k1, &source, &destination, &source_port, &destination_port,
			      &protocol))
		return NULL;
	if (source.len != destination.len || (source.len != 4 && source.len != 16)) {
		PyErr_SetString(PyExc_ValueError, "addresses of a flow have 4 octets both, or 16");
	} else if (source_port < 0 || source_port > 65535 || destination_port < 0 ||
		   destination_port > 65535 || protocol < 0 || protocol > 255) {
		PyErr_SetString(PyExc_ValueError, "a port has 16 bits, and a protocol has 8");
	} else {
		memcpy(at, source.buf, source.len);
		at += source.len;
		memcpy(at, destination.buf, destination.len);
		at += destination.len;
		at[0] = source_port >> 8;
		at[1] = source_port & 0xff;
		at[2] = destination_port >> 8;
		at[3] = destination_port & 0xff;
		at[4] = protocol;
		result = PyLong_FromUnsignedLongLong(siphash13(key, flow, at - flow + 8));
	}
	PyBuffer_Release(&source);
	PyBuffer_Release(&destination);
	return result;
}

/* Fills in who contends, with permutations. Returns false with a Python error set. */
static bool enter_contenders(struct contender *contenders, size_t count, const uint16_t *ids,
			     const uint16_t *weights, struct key key, uint32_t rows)
{
	for (size_t i = 0; i < count; i++) {
		if (ids[i] == NOBODY || (i && ids[i] <= ids[i - 1])) {
			PyErr_Format(PyExc_ValueError,
				     "ids of members are above 0 and ascend; this is %d", ids[i]);
			return false;
		}
		contenders[i] = (struct contender){.id = ids[i], .weight = weights[i]};
		draw_permutation(&contenders[i], key, rows);
	}
	return true;
}

static PyObject *owners_of_rows(const Py_buffer *ids, const Py_buffer *weights, struct key key,
				uint32_t rows)
{
	size_t count = ids->len / sizeof(uint16_t);
	struct contender *contenders = PyMem_Calloc(count ? count : 1, sizeof *contenders);
	uint64_t *taken = PyMem_Calloc(rows / 64 + 1, sizeof *taken);
	PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)rows * sizeof(uint16_t));

	if (!contenders || !taken) {
		Py_CLEAR(result);
		PyErr_NoMemory();
	} else if (result &&
		   !enter_contenders(contenders, count, ids->buf, weights->buf, key, rows)) {
		Py_CLEAR(result);
	} else if (result) {
		uint16_t *owners = (uint16_t *)PyBytes_AS_STRING(result);

		Py_BEGIN_ALLOW_THREADS;
		memset(owners, 0, rows * sizeof *owners);
		if (count)
			share_rows(contenders, count, rows, taken, owners);
		Py_END_ALLOW_THREADS;
	}
	PyMem_Free(taken);
	PyMem_Free(contenders);
	return result;
}

static bool is_array_of_u16(const Py_buffer *buffer)
{
	return buffer->len % sizeof(uint16_t) == 0 &&
	       (uintptr_t)buffer->buf % sizeof(uint16_t) == 0;
}

static PyObject *py_owners_of_rows(PyObject *Py_UNUSED(module), PyObject *arguments)
{
	Py_buffer ids, weights;
	struct key key;
	Py_ssize_t rows;
	PyObject *result = NULL;

	if (!PyArg_ParseTuple(arguments, "y*y*O&O&n:owners_of_rows", &ids, &weights, half_of_key,
			      &key.k0, half_of_key, &key.k1, &rows))
		return NULL;
	if (!is_array_of_u16(&ids) || !is_array_of_u16(&weights) || ids.len != weights.len ||
	    ids.len / sizeof(uint16_t) >= IDENTIFIERS)
		PyErr_SetString(PyExc_ValueError,
				"ids and weights are as many, aligned 16-bit numbers");
	else if (rows < 0 || rows > MAX_ROWS || !is_prime(rows))
		PyErr_Format(
		    PyExc_ValueError,
		    "a forwarding table needs a prime number of rows, and %zd is not, or is "
		    "above %d",
		    rows, MAX_ROWS);
	else
		result = owners_of_rows(&ids, &weights, key, rows);
	PyBuffer_Release(&ids);
	PyBuffer_Release(&weights);
	return result;
}

static PyObject *merge(const uint16_t *const *columns, size_t count, size_t rows,
		       const Py_buffer *reachable, unsigned places)
{
	uint8_t *is_reachable = PyMem_Calloc(IDENTIFIERS, sizeof *is_reachable);
	PyObject *chains =
	    PyBytes_FromStringAndSize(NULL, (Py_ssize_t)rows * MAX_OWNERS * sizeof(uint16_t));
	const uint16_t *ids = reachable->buf;
	uint32_t overflowed = 0;

	if (!is_reachable || !chains) {
		Py_XDECREF(chains);
		PyMem_Free(is_reachable);
		return PyErr_NoMemory();
	}
	for (Py_ssize_t i = 0; i < reachable->len / (Py_ssize_t)sizeof *ids; i++)
		is_reachable[ids[i]] = 1;
	is_reachable[NOBODY] = 0;
	Py_BEGIN_ALLOW_THREADS;
	memset(PyBytes_AS_STRING(chains), 0, rows * MAX_OWNERS * sizeof(uint16_t));
	for (size_t start = 0; start < rows; start += BLOCK)
		overflowed += merge_block(columns, count, is_reachable, places, start,
					  start + BLOCK < rows ? start + BLOCK : rows,
					  (uint16_t *)PyBytes_AS_STRING(chains));
	Py_END_ALLOW_THREADS;
	PyMem_Free(is_reachable);
	return Py_BuildValue("NI", chains, overflowed);
}

/* Takes the buffers of all columns. Returns how many it took, and `count` only if all went well;
 * less with a Python error set. */
static Py_ssize_t take_columns(PyObject *sequence, Py_ssize_t count, Py_buffer *buffers,
			       const uint16_t **columns)
{
	for (Py_ssize_t i = 0; i < count; i++) {
		/* The sequence may be a list that another thread makes shorter. */
		if (i >= PySequence_Fast_GET_SIZE(sequence)) {
			PyErr_SetString(PyExc_ValueError, "the columns changed meanwhile");
			return i;
		}
		if (PyObject_GetBuffer(PySequence_Fast_GET_ITEM(sequence, i), &buffers[i],
				       PyBUF_SIMPLE) < 0)
			return i;
		if (!is_array_of_u16(&buffers[i]) || buffers[i].len != buffers[0].len ||
		    buffers[i].len / sizeof(uint16_t) > MAX_ROWS) {
			PyErr_SetString(PyExc_ValueError,
					"columns are equally many, aligned 16-bit numbers");
			PyBuffer_Release(&buffers[i]);
			return i;
		}
		columns[i] = buffers[i].buf;
	}
	return count;
}

static PyObject *py_merge_owners(PyObject *Py_UNUSED(module), PyObject *arguments)
{
	PyObject *given, *sequence, *result = NULL;
	Py_buffer reachable, *buffers = NULL;
	const uint16_t **columns = NULL;
	Py_ssize_t places, count, taken = 0;

	if (!PyArg_ParseTuple(arguments, "Oy*n:merge_owners", &given, &reachable, &places))
		return NULL;
	sequence = PySequence_Fast(given, "columns are a sequence of buffers");
	if (!sequence)
		goto release_reachable;
	count = PySequence_Fast_GET_SIZE(sequence);
	if (!is_array_of_u16(&reachable) || places < 1 || places > MAX_OWNERS || count < 1) {
		PyErr_Format(PyExc_ValueError,
			     "reachable ids are aligned 16-bit numbers, a row has 1 to %d owners, "
			     "there is a column at least",
			     MAX_OWNERS);
		goto release_sequence;
	}
	buffers = PyMem_Calloc(count, sizeof *buffers);
	columns = PyMem_Calloc(count, sizeof *columns);
	if (!buffers || !columns) {
		PyErr_NoMemory();
		goto free_columns;
	}
	taken = take_columns(sequence, count, buffers, columns);
	if (taken == count)
		result =
		    merge(columns, count, buffers[0].len / sizeof(uint16_t), &reachable, places);
	for (Py_ssize_t i = 0; i < taken; i++)
		PyBuffer_Release(&buffers[i]);
free_columns:
	PyMem_Free(buffers);
	PyMem_Free(columns);
release_sequence:
	Py_DECREF(sequence);
release_reachable:
	PyBuffer_Release(&reachable);
	return result;
}

static PyMethodDef functions[] = {
    {"siphash13", py_siphash13, METH_VARARGS, NULL},
    {"flow_hash", py_flow_hash, METH_VARARGS, NULL},
    {"owners_of_rows", py_owners_of_rows, METH_VARARGS, NULL},
    {"merge_owners", py_merge_owners, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "l4.table_build",
    .m_doc = "Flow hash, owners of rows and owner chains, compiled from l4/native/table_build.c.",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_table_build(void)
{
	return PyModuleDef_Init(&module);
}
