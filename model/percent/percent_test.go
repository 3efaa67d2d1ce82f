package percent

import "testing"

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain": "plain", "a%20b": "a b", "%2f%2F": "//", "a+b": "a+b",
		"50%": "50%", "%4": "%4", "%zz%41": "%zzA", "%2525": "%25", "\u00fc%C3%BC": "\u00fc\u00fc",
	} {
		if got := Unescape(in); got != want {
			t.Errorf("Unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestEscape(t *testing.T) {
	if got := Escape("aZ09-_.~ /+%\u00fc"); got != "aZ09-_.~%20%2F%2B%25%C3%BC" {
		t.Errorf("Escape gave %q", got)
	}
}

func FuzzThereAndBack(f *testing.F) {
	f.Add("a b/%41+~")
	f.Fuzz(func(t *testing.T, s string) {
		if got := Unescape(Escape(s)); got != s {
			t.Fatalf("%q became %q", s, got)
		}
	})
}
