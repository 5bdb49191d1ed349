"""Train the toy MoE on CPU.  Muon for matrices, AdamW for embeddings/router/norms, cosine schedule over wall time."""
import argparse, json, math, os, sys, time
ap = argparse.ArgumentParser()
A = ap.add_argument
A('--data', required=True); A('--out', required=True); A('--minutes', type=float, default=50); A('--threads', type=int, default=1)
A('--layers', type=int, default=6); A('--d', type=int, default=256); A('--heads', type=int, default=4); A('--kv', type=int, default=2); A('--experts', type=int, default=32); A('--topk', type=int, default=4); A('--inter', type=int, default=96)
A('--batch', type=int, default=8192); A('--T', type=int, default=256); A('--T2', type=int, default=512); A('--t2_at', type=float, default=0.8)
A('--lr', type=float, default=0.02); A('--alr', type=float, default=2e-3); A('--aux', type=float, default=0.02); A('--wd', type=float, default=0.05); A('--warm', type=float, default=0.01)
A('--eval_min', type=float, default=3); A('--seed', type=int, default=1); A('--max_steps', type=int, default=10**9); A('--fp32', action='store_true'); A('--device', default='cpu'); A('--loc', type=float, default=0.02); A('--router_lr', type=float, default=1.0); A('--chunk', type=int, default=512); A('--init', help='start from the weights of this checkpoint')
a = ap.parse_args()
os.environ.setdefault('OMP_NUM_THREADS', str(a.threads))
import numpy as np, torch
torch.set_num_threads(a.threads); torch.manual_seed(a.seed); torch.set_flush_denormal(True)
sys.path.insert(0, os.path.dirname(__file__))
from model import Cfg, Model
from tokenizers import Tokenizer
os.makedirs(a.out, exist_ok=True)
tok = Tokenizer.from_file(f'{a.data}/tokenizer.json')
c = Cfg(vocab=tok.get_vocab_size(), d=a.d, layers=a.layers, heads=a.heads, kv=a.kv, experts=a.experts, topk=a.topk, inter=a.inter)
dev = torch.device(a.device); m = Model(c)
if a.init: m.load_state_dict({k: v.float() for k, v in torch.load(a.init)['model'].items()})
m = m.to(dev); dt = torch.float32 if a.fp32 else torch.bfloat16
data = np.fromfile(f'{a.data}/train.bin', dtype=np.uint16)
print('cfg', vars(c), 'params total/active', c.params(), sum(p.numel() for p in m.parameters()), 'train tokens', len(data), flush=True)

@torch.no_grad()
def ns(G):                                   # batched Newton-Schulz orthogonalisation (Muon)
    two = G.ndim == 2; X = G.to(dt); X = X[None] if two else X; tr = X.shape[-2] > X.shape[-1]
    if tr: X = X.mT
    X = X / (X.float().norm(dim=(-2, -1), keepdim=True).to(X.dtype) + 1e-7)
    for _ in range(5):
        S = torch.bmm(X, X.mT); S = torch.baddbmm(S, S, S, beta=-4.7750, alpha=2.0315); X = torch.baddbmm(X, S, X, beta=3.4445)
    X = (X.mT if tr else X).float(); return X[0] if two else X
mat, oth = [], []
for n, p in m.named_parameters(): (mat if p.ndim >= 2 and 'router' not in n and n not in ('emb', 'head') else oth).append((n, p))
mom = [torch.zeros_like(p) for _, p in mat]
lrm = {'emb': 1.5, 'head': 1.0}
adam = torch.optim.AdamW([dict(params=[p], m=lrm.get(n, 1.0 if 'router' not in n else a.router_lr), weight_decay=0.0) for n, p in oth], lr=a.alr, betas=(0.9, 0.95), eps=1e-10)

def batch(pos, T):
    B = a.batch // T; n = B * T
    if pos + n + 1 > len(data): pos = 0
    x = torch.from_numpy(data[pos:pos + n + 1].astype(np.int64)).to(dev, non_blocking=True)
    return x[:-1].view(B, T), x[1:].view(B, T), pos + n
def val(name, T=256, nmax=8192):
    v = np.fromfile(f'{a.data}/val_{name}.bin', dtype=np.uint16)[:nmax + 1]; n = (len(v) - 1) // T * T
    x = torch.from_numpy(v[:n + 1].astype(np.int64)).to(dev)
    with torch.no_grad(): return m.loss(x[:-1].view(-1, T), x[1:].view(-1, T), dt)[0].item()
@torch.no_grad()
def sample(prompt, n=120, temp=0.7, topp=0.9, seed=0, stop=True):
    g = torch.Generator().manual_seed(seed); ids = tok.encode(prompt).ids; k = len(ids)
    for _ in range(n):
        l = m.logits(torch.tensor([ids[-400:]], device=dev), dt)[0, -1].cpu() / temp; p = torch.softmax(l, -1); sp, si = p.sort(descending=True)
        sp[(sp.cumsum(0) - sp) > topp] = 0; t = si[torch.multinomial(sp / sp.sum(), 1, generator=g)].item()
        if stop and t in (0, 2): break
        ids.append(t)
    return tok.decode(ids[k:], skip_special_tokens=False)
CH = lambda u: f'<|im_start|>user\n{u}<|im_end|>\n<|im_start|>assistant\n'
PROMPTS = ['Once upon a time', CH('Hello! How are you?'), CH('Tell me a story about a cat and a ball.'), CH('What is 7 plus 5?'), CH('What does a fox eat?')]
def save(f): torch.save(dict(cfg=vars(c), model={k: (v.to(torch.bfloat16) if v.ndim > 1 else v).cpu() for k, v in m.state_dict().items()}), f'{a.out}/{f}')

t0 = time.time(); cpu0 = time.process_time(); next_eval = 0.0; pos = step = seen = 0; ema = None; log = open(f'{a.out}/log.jsonl', 'a'); samp_at = [.1, .3, .6]; paused = 0.0
while True:
    el = time.time() - t0 - paused; pr = el / (a.minutes * 60)
    if pr >= 1 or step >= a.max_steps: break
    s = min(1.0, pr / a.warm) if pr < a.warm else 0.5 * (1 + math.cos(math.pi * (pr - a.warm) / (1 - a.warm))); s = max(s, 0.02) if pr < 0.97 else s
    T = a.T if pr < a.t2_at else a.T2
    x, y, pos = batch(pos, T); rec = [] if step % 20 == 0 else None
    for l in m.layers: l.loc = a.loc / max(a.aux, 1e-9) * min(1.0, pr / 0.3)
    ce, aux = m.loss(x, y, dt, rec, a.chunk); (ce + a.aux * aux).backward()
    gn = 0.0
    with torch.no_grad():
        mu = 0.85 + 0.1 * min(1, step / 200)
        for (n, p), b in zip(mat, mom):
            g = p.grad; b.mul_(mu).add_(g, alpha=1 - mu); u = ns(g.lerp(b, mu)); lr = a.lr * s
            p.mul_(1 - lr * a.wd).add_(u, alpha=-lr * max(1, p.shape[-2] / p.shape[-1]) ** 0.5); p.grad = None
        for gr in adam.param_groups: gr['lr'] = a.alr * s * gr['m']
        adam.step(); adam.zero_grad(set_to_none=True)
    step += 1; seen += x.numel()
    if dev.type == 'cpu' or rec is not None: l = ce.item(); ema = l if ema is None else 0.95 * ema + 0.05 * l
    if rec is not None:
        cpu = time.process_time() - cpu0; el = time.time() - t0 - paused; mx = max((r[2].max() / r[2].float().mean()).item() for r in rec); dead = sum(int((r[2] == 0).sum()) for r in rec)
        ent = np.mean([-(r[1] * (r[1] + 1e-9).log()).sum(1).mean().item() for r in rec])
        print(f'step {step} {el/60:.1f}m T{T} loss {l:.3f} ema {ema:.3f} aux {aux.item():.3f} maxload {mx:.2f} dead {dead} H {ent:.2f} tok/s {seen/el:.0f} tok/cpu-s {seen/cpu:.0f} lr {s:.3f}', flush=True)
        log.write(json.dumps(dict(step=step, min=el / 60, loss=l, ema=ema, aux=aux.item(), maxload=mx, dead=dead, ent=float(ent), tokens=seen, cpu_s=cpu)) + '\n'); log.flush()
    if el / 60 >= next_eval and step > 1:
        next_eval += a.eval_min; e = {n: round(val(n, nmax=4096), 4) for n in ('story', 'gstory', 'chat')}
        print('EVAL', step, seen, e, flush=True); log.write(json.dumps(dict(step=step, min=el / 60, tokens=seen, eval=e)) + '\n'); save('ckpt.pt')
    if samp_at and pr > samp_at[0]:
        samp_at.pop(0)
        for q in PROMPTS[:3]: print('SAMPLE', repr(q[-40:]), '->', sample(q, 60), flush=True)
save('final.pt'); json.dump(dict(steps=step, tokens=seen, wall=time.time() - t0, cpu=time.process_time() - cpu0), open(f'{a.out}/done.json', 'w'))
print('FINAL', {n: round(val(n, nmax=10**6), 4) for n in ('story', 'gstory', 'chat')}, 'T512', {n: round(val(n, 512, 10**6), 4) for n in ('story', 'gstory', 'chat')})
for q in PROMPTS: print('SAMPLE', repr(q[-40:]), '->', sample(q, 160), flush=True)
