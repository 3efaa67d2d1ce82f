// Package sas makes and checks shared access signatures, the tokens that IoT Hub's
// clients prove themselves with, and reads and writes connection strings. It knows
// the format only: who may do what is auth's business.
package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/percent"
)

// MaxToken is the longest token that Parse reads, in bytes. The longest that a
// client can have reason to send, with two ids of 128 characters encoded twice, has
// about 1,600.
const MaxToken = 4096

// scheme starts every token. It is compared with regard to case.
const scheme = "SharedAccessSignature"

// Token is a parsed shared access signature. It says nothing until Verify has
// approved it.
type Token struct {
	Resource string    // what it is for, exactly as it was sent
	Policy   string    // name of the key that signed it; empty for an identity's own key
	Expiry   time.Time // to the nanosecond if it was sent so; clamped to the year 9999

	expiry    string // as it was sent
	signature [sha256.Size]byte
}

// Audience is the resource with its percent-encoding undone once.
func (t *Token) Audience() string { return percent.Unescape(t.Resource) }

// Verify says whether key signed the token. It takes the same time for every key of
// one length. The signature covers the resource and the expiry as they were sent,
// since every SDK encodes them in its own way (device-protocol 3.2.2).
func (t *Token) Verify(key []byte) bool {
	sum := sign(key, t.Resource, t.expiry)
	return hmac.Equal(sum[:], t.signature[:])
}

// sign is HMAC-SHA256 over resource, line feed, expiry.
func sign(key []byte, resource, expiry string) (sum [sha256.Size]byte) {
	var room [512]byte
	text := append(append(append(room[:0], resource...), '\n'), expiry...)
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	mac.Sum(sum[:0])
	return sum
}

// Sign makes a token for a resource, such as HOST/devices/DEVICE, that holds until
// expiry, to the second. The key is the decoded one. With a key of a shared access
// policy, policy is its name; with an identity's own key it is empty.
func Sign(resource string, key []byte, expiry time.Time, policy string) string {
	sr, se := percent.Escape(resource), strconv.FormatInt(expiry.Unix(), 10)
	sum := sign(key, sr, se)
	text := scheme + " sr=" + sr + "&sig=" + percent.Escape(base64.StdEncoding.EncodeToString(sum[:])) + "&se=" + se
	if policy != "" {
		text += "&skn=" + percent.Escape(policy)
	}
	return text
}

// Derive is HMAC-SHA256 over text. It gives the key of a device in an enrollment
// group from the group's key and the registration id (provisioning-protocol 4), and
// the key of an edge module from the device's (edge-runtime 9.4).
func Derive(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// Parse reads a token. It takes everything that an SDK is known to send: fields in
// any order and case, a resource that is encoded once, twice or not at all, an
// expiry with decimals, a signature without its padding. Errors never quote the
// token.
func Parse(text string) (Token, error) {
	var t Token
	if len(text) > MaxToken {
		return t, fmt.Errorf("token has %d bytes, the most is %d", len(text), MaxToken)
	}
	text = strings.Trim(text, blank)
	rest, ok := strings.CutPrefix(text, scheme)
	fields := strings.TrimLeft(rest, blank)
	if !ok || fields == rest {
		return t, errors.New("token does not start with " + scheme + " and a space")
	}
	if strings.ContainsAny(fields, blank) {
		return t, errors.New("token holds white space")
	}
	var seen [4]bool
	for field := range strings.SplitSeq(fields, "&") {
		if field == "" {
			continue
		}
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return t, errors.New("token holds a field without a value")
		}
		if err := t.set(name, value, &seen); err != nil {
			return t, err
		}
	}
	for n, name := range fieldNames[:3] {
		if !seen[n] {
			return t, errors.New("token has no " + name)
		}
	}
	return t, nil
}

const blank = " \t\r\n"

// fieldNames are those of a token; the first three must be there.
var fieldNames = [4]string{"sr", "sig", "se", "skn"}

// set takes in one field. Names that mean nothing are skipped.
func (t *Token) set(name, value string, seen *[4]bool) (err error) {
	for n, known := range fieldNames {
		if !strings.EqualFold(name, known) {
			continue
		}
		if seen[n] {
			return errors.New("token has more than one " + known)
		}
		seen[n] = true
		switch known {
		case "sr":
			if t.Resource = value; value == "" {
				return errors.New("token has an empty sr")
			}
		case "sig":
			return t.setSignature(value)
		case "se":
			t.expiry = value
			t.Expiry, err = parseExpiry(value)
			return err
		case "skn":
			t.Policy = percent.Unescape(value)
		}
	}
	return nil
}

func (t *Token) setSignature(value string) error {
	// 43 digits and padding, each at most escaped, and a line break that encoders
	// for mail put at the end.
	var room, plain [48]byte
	text := percent.AppendUnescaped(room[:0], value)
	for len(text) > 0 && strings.IndexByte("=\r\n", text[len(text)-1]) >= 0 {
		text = text[:len(text)-1]
	}
	if len(text) != base64.RawStdEncoding.EncodedLen(sha256.Size) {
		return errors.New("token has a sig that is not the base64 of 32 bytes")
	}
	n, err := base64.RawStdEncoding.Decode(plain[:], text)
	if err != nil || n != sha256.Size {
		return errors.New("token has a sig that is not the base64 of 32 bytes")
	}
	copy(t.signature[:], plain[:])
	return nil
}

// parseExpiry reads seconds since 1970 with or without decimals.
func parseExpiry(s string) (time.Time, error) {
	const last = 253402300799 // the end of the year 9999; some tools count milliseconds
	whole, fraction, decimal := strings.Cut(s, ".")
	if len(s) > 40 || !digits(whole) || decimal && !digits(fraction) {
		return time.Time{}, errors.New("token has an se that is not a number of seconds")
	}
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || seconds >= last { // the error is one of range
		return time.Unix(last, 0).UTC(), nil
	}
	nanos := 0
	for n := range 9 {
		nanos *= 10
		if n < len(fraction) {
			nanos += int(fraction[n] - '0')
		}
	}
	return time.Unix(seconds, int64(nanos)).UTC(), nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
