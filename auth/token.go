package auth

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// byToken judges a token for an identity: signed with the identity's own key or,
// where policies may sign, with that of one that holds DeviceConnect.
func (v *Verifier) byToken(ctx context.Context, text string, id ident.ID, policies bool) (*ident.Principal, error) {
	t, err := sas.Parse(text)
	if err != nil {
		return nil, refuse("%s: %w", id, err)
	}
	now := v.now()
	if expired(&t, now) {
		return nil, tooOld(fault.Unauthorized, &t, now)
	}
	if t.Policy != "" && !policies {
		return nil, refuse("%s: token is signed by policy %.100q, not by the identity", id, t.Policy)
	}
	rec, cause, err := v.find(ctx, id)
	if err != nil {
		return nil, err
	}
	p := &ident.Principal{ID: rec.ID, Generation: rec.Generation, Stamp: rec.Stamp()}
	if t.Policy != "" {
		p.Method = methodPolicy
		err = v.policyToken(ctx, &t, &rec)
	} else {
		p.Method = pick(id, methodDeviceSAS, methodModuleSAS)
		err = v.ownToken(&t, &rec)
	}
	switch {
	case cause != nil && (err == nil || fault.Is(err, fault.Unauthorized)):
		return nil, refuse("%w", cause)
	case err != nil:
		return nil, err
	case !rec.Enabled:
		return nil, disabled(id)
	}
	// One that connects within the grace gets as much again (device-protocol 3.2.5).
	p.Expires = t.Expiry.Add(Skew)
	if t.Expiry.Before(now) {
		p.Expires = now.Add(Skew)
	}
	return p, nil
}

func (v *Verifier) ownToken(t *sas.Token, rec *Record) error {
	keys := rec.Keys
	if rec.Type != TypeSAS {
		keys = [2]string{}
	}
	signed := signedBy(t, keys)
	switch {
	case !v.owns(t.Resource, rec.ID):
		return refuse("%s: token is for %.400q", rec.ID, t.Resource)
	case rec.Type != TypeSAS:
		return refuse("%s brought a token but authenticates by %q", rec.ID, rec.Type)
	case !signed:
		return refuse("%s: token is signed with neither of its keys", rec.ID)
	}
	return nil
}

func (v *Verifier) policyToken(ctx context.Context, t *sas.Token, rec *Record) error {
	policy, signed, err := v.policy(ctx, t)
	switch {
	case err != nil:
		return err
	case !signed:
		return refuse("%s: token is not signed with a key of policy %.100q", rec.ID, t.Policy)
	case policy.Rights&DeviceConnect == 0:
		return refuse("%s: policy %q does not hold DeviceConnect", rec.ID, policy.Name)
	case !v.covers(t.Resource, rec.ID):
		return refuse("%s: token of policy %q is for %.400q", rec.ID, policy.Name, t.Resource)
	case rec.Type == TypeThumbprint || rec.Type == TypeAuthority:
		return refuse("%s brought a token but authenticates by %q", rec.ID, rec.Type)
	}
	return nil
}

// policy looks up the policy that a token names and says whether it signed the
// token, in IoT Hub's way or in that of Event Hubs. An unknown policy signs nothing, in
// the same time.
func (v *Verifier) policy(ctx context.Context, t *sas.Token) (p Policy, signed bool, err error) {
	p, err = v.dir.Policy(ctx, t.Policy)
	if err != nil && !fault.Is(err, fault.Unauthorized) {
		return Policy{}, false, err
	}
	signed = signedBy(t, p.Keys)
	signed = signedByText(t, p.Keys) || signed
	return p, signed && err == nil, nil
}

// Service judges the Authorization header of a call to a resource, the decoded path
// without host and leading slash, for a right, and names the policy. Credentials
// that cannot be read fail with fault.GenericUnauthorized, all else with
// fault.UnauthorizedAccess (service-protocol 2.2 and 2.3).
func (v *Verifier) Service(ctx context.Context, authorization, resource string, need Right) (name string, err error) {
	t, err := sas.Parse(authorization)
	if err != nil {
		return "", malformed(err)
	}
	if t.Policy == "" {
		return "", refuseService("token names no shared access policy (skn)")
	}
	if now := v.now(); expired(&t, now) {
		return "", tooOld(fault.UnauthorizedAccess, &t, now)
	}
	p, signed, err := v.policy(ctx, &t)
	switch {
	case err != nil:
		return "", err
	case !signed:
		return "", refuseService("token is not signed with a key of policy %.100q", t.Policy)
	case !v.prefixes(t.Resource, strings.Trim(resource, "/")):
		return "", refuseService("token of policy %q is for %.400q", p.Name, t.Resource)
	case p.Rights&need != need:
		return "", fault.New(fault.UnauthorizedAccess, "policy %s does not hold the right that this call needs", p.Name)
	}
	return p.Name, nil
}

func expired(t *sas.Token, now time.Time) bool { return now.After(t.Expiry.Add(Skew)) }

// nobody stands for a key where there is none, so that checking takes as long.
var nobody [32]byte

// signedByText is signedBy for clients of Event Hubs, which sign with the text of a key
// as it stands in the connection string, not with the bytes that it encodes.
func signedByText(t *sas.Token, keys [2]string) (signed bool) {
	for _, text := range keys {
		key := []byte(text)
		real := len(key) > 0
		if !real {
			key = nobody[:]
		}
		signed = t.Verify(key) && real || signed
	}
	return signed
}

// signedBy says whether one of the keys signed the token: the primary or, as while
// keys are rolled, the secondary. A refusal takes as long whatever keys there are.
func signedBy(t *sas.Token, keys [2]string) bool {
	for _, text := range keys {
		var room [64]byte
		key, err := base64.StdEncoding.AppendDecode(room[:0], []byte(text))
		real := err == nil && len(key) > 0
		if !real {
			key = nobody[:]
		}
		if t.Verify(key) && real {
			return true
		}
	}
	return false
}
