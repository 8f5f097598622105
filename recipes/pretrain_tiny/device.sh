#!/usr/bin/env bash
# Distil wav2vec2_tiny on a machine with a GPU that reaches nothing: two calls, from the repository's root.
#   bash recipes/pretrain_tiny/device.sh begin FOLDER OUT   unpack, begin to synthesise, and train for 15 s as a trial
#   bash recipes/pretrain_tiny/device.sh train FOLDER OUT SECONDS
# FOLDERs hold wheels of what is missing there, teachers.pt (teachers.py) and packed speech (speech.py); those of both
# calls are used. OUT gets wav2vec2_tiny.pt, distill.csv and a log.
set -u
step=$1 folder=$2 out=$3 seconds=${4:-200}
home=/tmp/pretrain_tiny
hours=${HOURS:-12}  # of synthetic speech
mkdir -p $home "$out"
cp -r "$folder"/* $home/
export PYTHONPATH=$home/site:$PWD PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
distill="python3 -m recipes.pretrain_tiny.distill --teachers $home/teachers.pt --workers 16 --threads 4"

synthesise() {
  [ -e $home/pretraining ] && return
  setsid nohup python3 -m downstream.corpora.synthetic $home --corpus pretraining --hours "$hours" --workers 14 \
    > $home/synthesis.log 2>&1 < /dev/null &
}

compgen -G "$home/*.whl" > /dev/null && [ ! -e $home/site ] &&
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target $home/site $home/*.whl
synthesise
if [ "$step" = begin ]; then
  nproc; free -g | head -2; nvidia-smi --query-gpu=name,memory.used --format=csv
  $distill $home/*.tsv --out "$out" -o seconds=15 -o sample=128 -o memory=2 -o save_seconds=100 2>&1 | tee "$out/begin.log"
  tail -n 1 $home/synthesis.log
else
  for _ in $(seq 90); do [ -e $home/pretraining/train.tsv ] && break; sleep 1; done
  tail -c 200 $home/synthesis.log; echo
  synthetic=$home/pretraining/train.tsv
  [ -e $synthetic ] || synthetic=
  $distill $home/*.tsv $synthetic --out "$out" -o seconds="$seconds" ${OPTIONS:-} 2>&1 | tee "$out/distill.log"
  nvidia-smi --query-gpu=memory.used --format=csv
fi
