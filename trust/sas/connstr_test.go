package sas

import (
	"strings"
	"testing"
)

func TestConnectionStrings(t *testing.T) {
	const k = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	for _, c := range []struct {
		text, canonical string // canonical empty: as text
		want            ConnectionString
	}{
		{text: "HostName=h.net;DeviceId=d;SharedAccessKey=" + k,
			want: ConnectionString{HostName: "h.net", DeviceID: "d", SharedAccessKey: k}},
		{text: "HostName=h.net;DeviceId=d;ModuleId=$edgeHub;SharedAccessKey=" + k + ";GatewayHostName=g",
			want: ConnectionString{HostName: "h.net", DeviceID: "d", ModuleID: "$edgeHub", SharedAccessKey: k, GatewayHostName: "g"}},
		{text: "HostName=h.net;DeviceId=d;x509=true;GatewayHostName=g",
			want: ConnectionString{HostName: "h.net", DeviceID: "d", X509: true, GatewayHostName: "g"}},
		{text: "HostName=h.net;SharedAccessKeyName=iothubowner;SharedAccessKey=" + k,
			want: ConnectionString{HostName: "h.net", SharedAccessKeyName: "iothubowner", SharedAccessKey: k}},
		{text: "Endpoint=sb://h.net/;SharedAccessKeyName=service;SharedAccessKey=" + k + ";EntityPath=selvedge",
			want: ConnectionString{Endpoint: "sb://h.net/", SharedAccessKeyName: "service", SharedAccessKey: k, EntityPath: "selvedge"}},
		{text: "HostName=h.net;DeviceId=d;SharedAccessSignature=" + vector,
			want: ConnectionString{HostName: "h.net", DeviceID: "d", SharedAccessSignature: vector}},
		{text: " sharedaccesskey = " + k + " ;DEVICEID=a=b; hostname=h.net;X509=False; ", canonical: "HostName=h.net;DeviceId=a=b;SharedAccessKey=" + k,
			want: ConnectionString{HostName: "h.net", DeviceID: "a=b", SharedAccessKey: k}},
	} {
		got, err := ParseConnectionString(c.text)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.text, got, err)
		}
		if c.canonical == "" {
			c.canonical = c.text
		}
		if got.String() != c.canonical {
			t.Errorf("%s: written as %s", c.text, got)
		}
	}
}

func TestBadConnectionStrings(t *testing.T) {
	for text, hint := range map[string]string{
		"":                                    "HostName",
		";;":                                  "HostName",
		"DeviceId=d;SharedAccessKey=c2VjcmV0": "HostName",
		"HostName=":                           "Name=Value",
		"HostName=h;c2VjcmV0":                 "Name=Value",
		"HostName=h;HostName=i":               "more than one",
		"HostName=h;Endpoint=sb://h/":         "both",
		"HostName=h;ModuleId=m":               "no DeviceId",
		"HostName=h;SharedAccessKye=c2VjcmV0": "SharedAccessKye",
		"HostName=h;x509=maybe":               "x509",
		"Endpoint=h":                          "sb://HOST/",
		"Endpoint=%zz":                        "sb://HOST/",
		"HostName=" + strings.Repeat("h", maxConnectionString): "bytes",
	} {
		c, err := ParseConnectionString(text)
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%.60s: %+v, %v", text, c, err)
		} else if strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
}

func TestKeyOfConnectionString(t *testing.T) {
	if k, err := (ConnectionString{SharedAccessKey: "c2VjcmV0"}).Key(); err != nil || string(k) != "secret" {
		t.Errorf("%q, %v", k, err)
	}
	for _, bad := range []string{"", "c2VjcmV0=", "?"} {
		if k, err := (ConnectionString{SharedAccessKey: bad}).Key(); err == nil {
			t.Errorf("%q: read as %q", bad, k)
		}
	}
}

func FuzzConnectionString(f *testing.F) {
	f.Add("HostName=h.net;DeviceId=d;ModuleId=m;SharedAccessKey=c2VjcmV0;GatewayHostName=g")
	f.Add("HostName=h.net;DeviceId=d;x509=true")
	f.Add("Endpoint=sb://h/;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0;EntityPath=e;")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConnectionString(text)
		if err != nil {
			return
		}
		again, err := ParseConnectionString(c.String())
		if err != nil || again != c {
			t.Errorf("%q read as %+v, written as %q, read as %+v, %v", text, c, c, again, err)
		}
	})
}
