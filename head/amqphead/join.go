package amqphead

import (
	"context"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// join proves the identity, attaches it and accepts the links that wait.
func (p *peer) join() {
	if err := p.attach(); err != nil {
		p.end(err)
		return
	}
	p.mu.Lock()
	for p.reason == nil && len(p.waiting) > 0 {
		waiting := p.waiting
		p.waiting = nil
		p.mu.Unlock()
		for _, w := range waiting {
			p.accept(w)
		}
		p.mu.Lock()
	}
	if p.reason == nil {
		p.phase = joined
	}
	p.mu.Unlock()
}

func (p *peer) attach() error {
	ctx, cancel := context.WithTimeout(p.c.ctx, backendTimeout)
	defer cancel()
	p.mu.Lock()
	hint := claimOf(p.id, p.waiting)
	p.mu.Unlock()
	who, err := p.c.authenticate(ctx, hint)
	if err != nil {
		return err
	}
	p.c.proved.Store(true)
	p.who.Store(who)
	p.att, err = p.c.srv.cfg.Backend.Attach(ctx, who, p)
	if err != nil {
		return err
	}
	p.c.mu.Lock()
	p.c.wake(who.Expires)
	p.c.mu.Unlock()
	return nil
}

// claimOf gathers what the links of an identity say beside its name.
func claimOf(id ident.ID, links []wanted) ident.Claim {
	c := ident.Claim{ID: id}
	for _, w := range links {
		for key, into := range map[string]*string{
			"com.microsoft:client-version": &c.ClientType,
			"com.microsoft:api-version":    &c.APIVersion,
			"com.microsoft:model-id":       &c.ModelID,
			"com.microsoft:auth-chain":     &c.AuthChain,
		} {
			if text, ok := w.in.Properties.Text(key); ok && *into == "" {
				*into = text
			}
		}
	}
	return c
}

// authenticate proves an identity by the tokens that the connection has brought, else
// by its certificate.
func (c *Conn) authenticate(ctx context.Context, claim ident.Claim) (*ident.Principal, error) {
	if err := c.settled(ctx, claim.ID); err != nil {
		return nil, err
	}
	done, err := c.judge(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	claim.Remote = c.remote
	c.mu.Lock()
	found := c.tokens.forIdentity(claim.ID)
	c.mu.Unlock()
	var first error
	for _, t := range found {
		claim.Token = t.text
		who, err := c.srv.cfg.Backend.Authenticate(ctx, &claim)
		if err == nil {
			return who, nil
		}
		if first == nil {
			first = err
		}
	}
	if len(c.certificates) > 0 {
		claim.Token, claim.Certificates = "", c.certificates
		who, err := c.srv.cfg.Backend.Authenticate(ctx, &claim)
		if err == nil {
			return who, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fault.New(fault.Unauthorized, "no token for %s was put on $cbs, and the connection brings no certificate", claim.ID)
	}
	return nil, first
}

// announce tells the backend of a model that came with a later link.
func (p *peer) announce() {
	p.mu.Lock()
	who := *p.who.Load()
	who.ModelID = p.model
	p.who.Store(&who)
	p.mu.Unlock()
	models, ok := p.c.srv.cfg.Backend.(head.Models)
	if !ok {
		return
	}
	p.c.Go(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, backendTimeout)
		defer cancel()
		if err := models.SetModel(ctx, who.ID, who.ModelID); err != nil {
			p.c.srv.cfg.Log.Warn("model id of device not noted", "device", p.id.Device, "module", p.id.Module, "err", err)
		}
	})
}

// renew looks for a newer proof when the old one has ended, and ends the links of the
// identity when there is none.
func (p *peer) renew() {
	old := p.who.Load()
	ctx, cancel := context.WithTimeout(p.c.ctx, backendTimeout)
	defer cancel()
	p.mu.Lock()
	model := p.model
	p.mu.Unlock()
	who, err := p.c.authenticate(ctx, ident.Claim{ID: p.id, ModelID: model})
	if err == nil && !who.Expires.IsZero() && !who.Expires.After(time.Now()) {
		err = fault.New(fault.Unauthorized, "the token of %s has expired; put a new one on $cbs in time", p.id)
	}
	if err != nil {
		p.end(err)
		return
	}
	if who.ModelID == "" {
		who.ModelID = old.ModelID
	}
	p.who.Store(who)
	p.c.mu.Lock()
	p.c.wake(who.Expires)
	p.c.mu.Unlock()
}
