package node

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// connectionString reads what the hub gives out for a device.
func connectionString(p *Provisioning, text string) error {
	const key = "provisioning.connection_string"
	c, err := sas.ParseConnectionString(text)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w; it is  HostName=…;DeviceId=…;SharedAccessKey=…", key, err)
	case c.SharedAccessKeyName != "" || c.Endpoint != "":
		return errors.New(key + ": this one is for service clients; a gateway needs its own, as  selvedge device connection-string DEVICE  prints it")
	case c.GatewayHostName != "":
		return errors.New(key + ": a gateway below a gateway is not supported yet; remove GatewayHostName")
	case c.ModuleID != "":
		return errors.New(key + ": this one is of a module; a gateway needs the device's")
	case c.X509:
		return errors.New(key + `: with a certificate, set iothub_hostname, device_id and [provisioning.authentication] method = "x509" instead`)
	case c.DeviceID == "" || c.SharedAccessKey == "":
		return errors.New(key + ": HostName, DeviceId and SharedAccessKey are needed")
	}
	if err := checkHub(key, c.HostName); err != nil {
		return err
	}
	p.Hub, p.Device = c.HostName, c.DeviceID
	if err := (ident.ID{Device: p.Device}).Check(); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	p.Key, err = decodeKey(key, c.SharedAccessKey)
	return err
}

func decodeKey(name, text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("%s: the key is not in base64; copy it whole, the = at its end included", name) // never show it
	}
	return key, nil
}

func checkHub(name, host string) error {
	if _, port, err := net.SplitHostPort(host); err == nil {
		return fmt.Errorf("%s: the host name must be without a port (:%s); say where to connect in [upstream] mqtt and https", name, port)
	}
	if err := checkHost(host); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// checkHost wants a DNS name or an IP address.
func checkHost(host string) error {
	if net.ParseIP(host) != nil {
		return nil
	}
	if len(host) > 253 || strings.Trim(host, "-.") != host {
		return fmt.Errorf("%q is no host name", host)
	}
	for i := range len(host) {
		c := host[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' {
			continue
		}
		return fmt.Errorf("%q is no host name: %q is not allowed", host, c)
	}
	return nil
}

// checkAddress wants host:port, or nothing; only where we listen may the host be left out.
func checkAddress(name, addr string, needHost bool) error {
	if addr == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || needHost && host == "" {
		return fmt.Errorf(`%s: %q is no address; write it as "host:port", such as "127.0.0.1:8883"`, name, addr)
	}
	return nil
}

// place is where relative paths begin.
type place struct{ dir string }

func (p place) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(p.dir, name)
}

// file gives the path of a file URI.
func (p place) file(key, uri string) (string, error) {
	u, err := url.Parse(uri)
	switch {
	case err == nil && u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && u.Path != "":
		path := u.Path
		if runtime.GOOS == "windows" && len(path) > 2 && path[2] == ':' {
			path = path[1:] // file:///C:/name
		}
		return filepath.FromSlash(path), nil
	case err == nil && u.Scheme == "pkcs11":
		return "", fmt.Errorf(`%s: keys in hardware (PKCS#11) are not supported yet; use "file:///path"`, key)
	}
	return "", fmt.Errorf(`%s: %q is no file URI; write "file://%s"`, key, uri, filepath.ToSlash(p.path(strings.TrimPrefix(uri, "file:"))))
}
