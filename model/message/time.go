package message

import "time"

// TimeFormat is the one form of time that all SDKs parse (device-protocol 5.8.4), for
// times in UTC.
const TimeFormat = "2006-01-02T15:04:05.0000000Z"

// ParseTime reads the forms of ISO 8601 that SDKs send; without a zone it is UTC.
func ParseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
