package amqp

import "iter"

// Each gives the messages of a delivery: the one encoded in payload, or with format
// BatchFormat each that its data sections hold. The Message is the same one every
// time, its binary values alias payload. An error ends the sequence; a batch is
// all or nothing, so the caller should drop what came before it.
func Each(format uint32, payload []byte) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		var m Message
		if err := m.Decode(payload); err != nil {
			yield(nil, err)
			return
		}
		if format != BatchFormat {
			yield(&m, nil)
			return
		}
		if m.HasValue || len(m.Sequences) > 0 {
			yield(nil, malformed("a batch has a body that is not data"))
			return
		}
		var inner Message
		for _, b := range m.Data {
			if err := inner.Decode(b); err != nil {
				yield(nil, err)
				return
			}
			if !yield(&inner, nil) {
				return
			}
		}
	}
}

// AppendData encodes one data section behind dst, as a batch consists of.
func AppendData(dst, data []byte) []byte {
	e := encoder{b: append(dst, codeDescribed, codeUlongSmall, descData)}
	e.binary(data)
	return e.b
}
