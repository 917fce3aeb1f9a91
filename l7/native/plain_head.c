// Splits heads of HTTP/1.1 messages that hold nothing unusual: see
// l7/protocol/http1/plain_head.pyi.
//
// Accepts less than the strict reader does, and never something else: whatever is not obviously
// plain is answered with None, and the strict reader judges it. So no rule is decided here but
// "this head breaks none".

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// RFC 9110 section 5.6.2, without "_": lower case of what a field's name may hold; 0: nothing that
// it may.
static uint8_t name_octet[256];
// RFC 9110 section 5.5: what a field's value may hold.
static bool value_octet[256];

static const char *const METHODS[] = {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"};
#define METHOD_COUNT (sizeof METHODS / sizeof *METHODS)
static PyObject *methods[METHOD_COUNT];

enum { MAX_NAME = 64 };

struct cursor {
	const uint8_t *at;
	const uint8_t *end;
};

static void fill_tables(void)
{
	for (int octet = 'a'; octet <= 'z'; octet++) {
		name_octet[octet] = (uint8_t)octet;
		name_octet[octet - 'a' + 'A'] = (uint8_t)octet;
	}
	for (const char *plain = "0123456789!#$%&'*+.^`|~-"; *plain; plain++)
		name_octet[(uint8_t)*plain] = (uint8_t)*plain;
	for (int octet = 0; octet < 256; octet++)
		value_octet[octet] = octet == '\t' || (octet >= ' ' && octet != 0x7f);
}

static bool is_keep_alive(const uint8_t *value, Py_ssize_t size)
{
	return size == 10 &&
	       (memcmp(value, "keep-alive", 10) == 0 || memcmp(value, "Keep-Alive", 10) == 0);
}

struct fields {
	PyObject *list;
	PyObject *host;
	PyObject *content_length;
};

static void release(struct fields *fields)
{
	Py_CLEAR(fields->list);
	Py_CLEAR(fields->host);
	Py_CLEAR(fields->content_length);
}

enum verdict { FAILED = -1, UNUSUAL = 0, PLAIN = 1 };

// One field, of which the cursor stands at the first octet. `takes_host`: it is a request's.
static enum verdict read_field(struct cursor *cursor, struct fields *fields, PyObject *special,
			       bool takes_host)
{
	uint8_t lower[MAX_NAME];
	const uint8_t *at = cursor->at, *end = cursor->end;
	Py_ssize_t length = 0;
	while (at < end && name_octet[*at]) {
		if (length == MAX_NAME)
			return UNUSUAL;
		lower[length++] = name_octet[*at++];
	}
	if (!length || at >= end || *at != ':')
		return UNUSUAL;
	at++;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	const uint8_t *value = at;
	while (at < end && value_octet[*at])
		at++;
	if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
		return UNUSUAL;
	cursor->at = at + 2;
	while (at > value && (at[-1] == ' ' || at[-1] == '\t'))
		at--;
	Py_ssize_t size = at - value;
	if (!size)
		return UNUSUAL;
	enum verdict verdict = FAILED;
	PyObject *name = PyBytes_FromStringAndSize((const char *)lower, length);
	if (!name)
		return FAILED;
	int is_special = PySet_Contains(special, name);
	if (is_special < 0)
		goto done;
	if (!is_special) {
		PyObject *text = PyBytes_FromStringAndSize((const char *)value, size);
		if (!text)
			goto done;
		PyObject *pair = PyTuple_Pack(2, name, text);
		Py_DECREF(text);
		if (!pair)
			goto done;
		verdict = PyList_Append(fields->list, pair) < 0 ? FAILED : PLAIN;
		Py_DECREF(pair);
		goto done;
	}
	PyObject **place = NULL;
	if (takes_host && length == 4 && memcmp(lower, "host", 4) == 0)
		place = &fields->host;
	else if (length == 14 && memcmp(lower, "content-length", 14) == 0)
		place = &fields->content_length;
	if (place) {
		verdict = UNUSUAL;
		if (!*place) {
			*place = PyBytes_FromStringAndSize((const char *)value, size);
			verdict = *place ? PLAIN : FAILED;
		}
	} else if (length == 10 && memcmp(lower, "connection", 10) == 0) {
		verdict = is_keep_alive(value, size) ? PLAIN : UNUSUAL;
	} else {
		verdict = UNUSUAL;
	}
done:
	Py_DECREF(name);
	return verdict;
}

// All fields and the empty line behind them, which must be the end of the head.
static enum verdict read_fields(struct cursor *cursor, struct fields *fields, PyObject *special,
				bool takes_host, Py_ssize_t most)
{
	fields->list = PyList_New(0);
	if (!fields->list)
		return FAILED;
	for (Py_ssize_t count = 0;; count++) {
		if (cursor->end - cursor->at >= 2 && cursor->at[0] == '\r') {
			bool ends = cursor->at[1] == '\n' && cursor->at + 2 == cursor->end;
			return ends && count ? PLAIN : UNUSUAL;
		}
		if (count == most)
			return UNUSUAL;
		enum verdict verdict = read_field(cursor, fields, special, takes_host);
		if (verdict != PLAIN)
			return verdict;
	}
}

static PyObject *read_method(struct cursor *cursor)
{
	for (size_t number = 0; number < METHOD_COUNT; number++) {
		Py_ssize_t length = PyBytes_GET_SIZE(methods[number]);
		if (cursor->end - cursor->at > length && cursor->at[length] == ' ' &&
		    memcmp(cursor->at, PyBytes_AS_STRING(methods[number]), (size_t)length) == 0) {
			cursor->at += length + 1;
			return methods[number];
		}
	}
	return NULL;
}

static PyObject *or_none(PyObject *object)
{
	PyObject *result = object ? object : Py_None;
	Py_INCREF(result);
	return result;
}

static PyObject *split_request(PyObject *Py_UNUSED(module), PyObject *const *arguments,
			       Py_ssize_t count)
{
	if (count != 3 || !PyBytes_Check(arguments[0]) || !PyAnySet_Check(arguments[1])) {
		PyErr_SetString(PyExc_TypeError,
				"split_request(head: bytes, special: frozenset, most: int)");
		return NULL;
	}
	Py_ssize_t most = PyLong_AsSsize_t(arguments[2]);
	if (most < 0 && PyErr_Occurred())
		return NULL;
	const uint8_t *start = (const uint8_t *)PyBytes_AS_STRING(arguments[0]);
	struct cursor cursor = {start, start + PyBytes_GET_SIZE(arguments[0])};
	PyObject *method = read_method(&cursor);
	if (!method || cursor.at >= cursor.end || *cursor.at != '/')
		Py_RETURN_NONE;
	const uint8_t *target = cursor.at, *query = NULL, *at = target;
	// A space ends it; a "#" has no place in it (RFC 9112 section 3.2).
	while (at<cursor.end && * at> ' ' && *at < 0x7f && *at != '#') {
		if (*at == '?' && !query)
			query = at;
		at++;
	}
	static const char version[] = " HTTP/1.1\r\n";
	if (cursor.end - at < (Py_ssize_t)sizeof version - 1 ||
	    memcmp(at, version, sizeof version - 1) != 0)
		Py_RETURN_NONE;
	if (!query)
		query = at;
	cursor.at = at + sizeof version - 1;
	struct fields fields = {NULL, NULL, NULL};
	enum verdict verdict = read_fields(&cursor, &fields, arguments[1], true, most);
	PyObject *result = NULL;
	if (verdict == PLAIN && fields.host) {
		result = PyTuple_New(6);
		PyObject *path = PyBytes_FromStringAndSize((const char *)target, query - target);
		PyObject *rest = PyBytes_FromStringAndSize((const char *)query, at - query);
		if (!result || !path || !rest) {
			Py_CLEAR(result);
			Py_XDECREF(path);
			Py_XDECREF(rest);
		} else {
			Py_INCREF(method);
			PyTuple_SET_ITEM(result, 0, method);
			PyTuple_SET_ITEM(result, 1, path);
			PyTuple_SET_ITEM(result, 2, rest);
			PyTuple_SET_ITEM(result, 3, or_none(fields.host));
			PyTuple_SET_ITEM(result, 4, or_none(fields.content_length));
			PyTuple_SET_ITEM(result, 5, or_none(fields.list));
		}
	} else if (verdict != FAILED) {
		result = or_none(NULL);
	}
	release(&fields);
	return result;
}

static PyObject *split_response(PyObject *Py_UNUSED(module), PyObject *const *arguments,
				Py_ssize_t count)
{
	if (count != 3 || !PyBytes_Check(arguments[0]) || !PyAnySet_Check(arguments[1])) {
		PyErr_SetString(PyExc_TypeError,
				"split_response(head: bytes, special: frozenset, most: int)");
		return NULL;
	}
	Py_ssize_t most = PyLong_AsSsize_t(arguments[2]);
	if (most < 0 && PyErr_Occurred())
		return NULL;
	const uint8_t *start = (const uint8_t *)PyBytes_AS_STRING(arguments[0]);
	struct cursor cursor = {start, start + PyBytes_GET_SIZE(arguments[0])};
	static const char version[] = "HTTP/1.1 ";
	enum { STATUS = sizeof version - 1, REASON = STATUS + 3 };
	if (cursor.end - start < REASON + 2 || memcmp(start, version, STATUS) != 0)
		Py_RETURN_NONE;
	long status = 0;
	for (int place = STATUS; place < REASON; place++) {
		if (start[place] < '0' || start[place] > '9')
			Py_RETURN_NONE;
		status = 10 * status + (start[place] - '0');
	}
	// Interim answers and those without a body have rules of their own.
	if (status < 200 || status == 204 || status == 304)
		Py_RETURN_NONE;
	const uint8_t *at = start + REASON;
	if (*at == ' ')
		while (at < cursor.end && value_octet[*at])
			at++;
	if (cursor.end - at < 2 || at[0] != '\r' || at[1] != '\n')
		Py_RETURN_NONE;
	cursor.at = at + 2;
	struct fields fields = {NULL, NULL, NULL};
	enum verdict verdict = read_fields(&cursor, &fields, arguments[1], false, most);
	PyObject *result = NULL;
	if (verdict == PLAIN && fields.content_length)
		result = Py_BuildValue("lOO", status, fields.content_length, fields.list);
	else if (verdict != FAILED)
		result = or_none(NULL);
	release(&fields);
	return result;
}

static PyMethodDef functions[] = {
    {"split_request", (PyCFunction)(void (*)(void))split_request, METH_FASTCALL, NULL},
    {"split_response", (PyCFunction)(void (*)(void))split_response, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "plain_head", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_plain_head(void)
{
	fill_tables();
	for (size_t number = 0; number < METHOD_COUNT; number++) {
		methods[number] = PyBytes_FromString(METHODS[number]);
		if (!methods[number])
			return NULL;
	}
	return PyModule_Create(&definition);
}
