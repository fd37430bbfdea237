"""FastAPI: the event loop waits for no disk and for no thread.

uvicorn fastapi_app:app
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from background import SaveActivity, make_saver
from fastapi import FastAPI, HTTPException, Request

from retryexec import RetryingExecutor
from retryexec.journal import JobRefused, JournalError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    # Opening a journal reads the disk, and a shutdown waits: both in threads of their own.
    saver = app.state.saver = await asyncio.to_thread(make_saver, accept="async")
    try:
        yield
    finally:
        await asyncio.to_thread(saver.shutdown, timeout=3)


app = FastAPI(lifespan=lifespan)


@app.post("/", status_code=202)
async def save(job: SaveActivity, request: Request) -> dict[str, str]:
    saver: RetryingExecutor = request.app.state.saver
    try:
        future = saver.submit(job)  # returns at once, with accept="async"
        await asyncio.wrap_future(future.accepted)  # the job is on disk
    except JobRefused as error:
        raise HTTPException(400, str(error)) from error
    except JournalError as error:  # the disk is full, say
        raise HTTPException(503, str(error)) from error
    return {"id": future.job_id}


@app.get("/")
async def health(request: Request) -> dict[str, Any]:
    return asdict(request.app.state.saver.stats())
